"""What users name: resources, mounts, runs, uploads, machine types. Nothing here touches a disk."""

from remoterun.model.machine_types import MachineType, Rental
from remoterun.model.rented import HostUse, Renting
from remoterun.model.requests import ALL_GPUS, Asked, RunRequest
from remoterun.model.resources import LAST, Mount, Resource, Upload, UploadCopy, check_upload_name, parse_version
from remoterun.model.runs import (
    EVERY_RUN,
    ClientFacts,
    Line,
    Run,
    RunFilter,
    SetMember,
    Told,
    by_our_clock,
    check_time,
    event_fields,
    listed,
    new_key,
)
