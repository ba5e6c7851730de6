"""AgentAPI: every request that a home answers, with the types of its arguments and of its result.

A request is a stream of the protocol (protocol.py). Its arguments come with its OPEN and its result goes with its END,
both as records (records.py). Most have no other data; where a request has, its comment says what goes in which
direction. Every request may be repeated: a client that lost the answer asks again, and it is done.

What is refused comes as an ERROR with a code: "not_found", "not_saved", "bad_name", "busy", "damaged", "missing_blob",
"bad_tree", "bad_spec", "bad_stream", "bad_request", "unknown_request", "too_large", "disk_full", "os_error",
"expired", "not_fetched", "refused", "leaving" (the machine ends soon), "not_running", "elsewhere" (see `reach`),
"engine_silent", "not_listening" (on a port of the run), "no_network" (its container's can't be reached), "not_notified"
(a webhook did not take the message), "no_home" (its folder is gone, or is another home), or "internal".

`agent/requests/` answers the requests, in a file for each noun; `session.Session` asks them. Longer than other files:
whoever wants to know what the two sides say to each other finds all of it here.
"""

from __future__ import annotations

from typing import Any, Dict, Generic, List, Optional, Type, TypeVar

from .archive import Grant
from .facts import RunEvent, RunStatus
from .measured import LogReading
from .records import Record
from .spec import MOST_BYTES, ResolvedMount, ResourceRef, Scheduling
from .states import RunState

A = TypeVar("A")
R = TypeVar("R")


class Request(Generic[A, R]):
    """`noun` names the file of `agent/requests/` that answers it; `most` is how many bytes its result may have."""

    def __init__(self, name: str, arguments: Type[A], result: Type[R], noun: str, most: int = 1 << 20) -> None:
        self.name = name
        self.arguments = arguments
        self.result = result
        self.noun = noun
        self.most = most

    def __repr__(self) -> str:
        return "<request %s>" % self.name


class Nothing(Record):
    """No arguments, or no result."""


class Hello(Record):
    """What a home says before it is asked."""

    home_id: str
    home: str = ""
    architecture: str = ""
    """As `uname -m` names it."""
    time: float = 0.0
    """Seconds since 1970 by the host's clock."""
    pid: int = 0


# -- blobs


class Count(Record):
    """How many blobs have come."""

    blobs: int


class Arriving(Record):
    size: int = 0


class Room(Record):
    """Bytes that may still arrive; where that is less than what shall arrive, also those of all blobs, whole or cut."""

    room: int
    stored: int = 0


class MissingPieces(Record):
    """A blob of `size` bytes, from piece number `first` on. The file at `path` in the newest version of the upload
    `name` may have pieces of it."""

    digest: str
    size: int
    first: int = 0
    name: str = ""
    path: str = ""


class WholeBlob(Record):
    digest: str
    size: int


class PieceHashes(Record):
    """The pieces of a blob from number `first` up to `end`."""

    digest: str
    first: int
    end: int


class RoundTrip(Record):
    """Over a link that takes `round_trip` seconds, to find out whether compression pays."""

    round_trip: float = 0.0


class BlobPieces(Record):
    """Over a link that takes `round_trip` seconds, as `RoundTrip`."""

    digest: str
    round_trip: float = 0.0


# In: digests, 32 bytes each, in as many frames as one likes. Out, for each frame one: (u32 place in the frame, u64
# bytes that a cut transfer left here) for each digest of which there is no blob here. Protects all of them from `gc`.
missing = Request("missing", Nothing, Nothing, "blobs")
room = Request("room", Arriving, Room, "blobs")
# In: blobs, as store/blob_streams.py takes them. One whose bytes don't have its digest is refused by name.
put = Request("put", Nothing, Nothing, "blobs")
# In: the SHA-256 of pieces. Out: the numbers, u32, of those that the home lacks. What it has is put in place.
missing_pieces = Request("missing_pieces", MissingPieces, Nothing, "blobs")
# Make the blob once all of its pieces have come, here or on other connections.
seal = Request("seal", WholeBlob, Nothing, "blobs")
# In: a `SignedObject` (archive.py) in each frame: what the host shall download. Out: {"at": bytes so far} now
# and then. Refused with "expired" where an address must be signed anew, else "not_fetched", "not_found", "refused".
download = Request("download", Nothing, Count, "blobs")
# In: digests, 32 bytes each. Out: their contents in that order, as store/blob_streams.py sends them.
fetch = Request("fetch", RoundTrip, Nothing, "blobs")
# Out: the SHA-256 of each, of at most `pieces.GROUP`, in one frame.
piece_hashes = Request("piece_hashes", PieceHashes, Nothing, "blobs")
# In: numbers of pieces of a blob, u32. Out: a frame for each, in that order.
fetch_pieces = Request("fetch_pieces", BlobPieces, Nothing, "blobs")


# -- uploads and trees


class UploadVersion(Record):
    """A version of an upload, which its `digest` identifies."""

    version: int
    """The name of its folder: the number of the client that uploaded it, where that was free in this home."""
    digest: str
    size: int
    """Bytes."""
    files: int
    created: float
    """Seconds since 1970 by the clock of its host."""
    damaged: bool = False
    for_mount: bool = False
    """It was copied to this home for a run that mounts it."""


class NamedUpload(Record):
    name: str
    newest: UploadVersion


class UploadList(Record):
    uploads: List[NamedUpload]


class VersionsOf(Record):
    name: str


class Versions(Record):
    """Oldest first; none without such an upload."""

    versions: List[UploadVersion]


class CommitUpload(Record):
    name: str
    number: int = 0
    digest: str = ""
    """The content to which the client gave `number`; any other one gets the next number."""
    made: float = 0.0
    """Of a version that exists elsewhere: when it was made, in seconds since 1970. Otherwise it is the newest one."""
    for_mount: bool = False
    """It is a copy for a run that mounts it."""


class RemoveUpload(Record):
    name: str
    digest: Optional[str] = None
    """Of all versions only the one with that content."""


class Committed(Record):
    version: UploadVersion
    created: bool
    """False where the home had a whole version with this content already."""


class Removed(Record):
    removed: bool


class OfResource(Record):
    resource: ResourceRef


class Tree(Record):
    live: bool = False
    """Its files may still change, and are not hashed."""
    single: bool = False
    """It is one file, under its base name."""
    folder: str = ""
    about: Dict[str, Any] = {}


uploads = Request("uploads", Nothing, UploadList, "uploads", most=4 << 20)
upload = Request("upload", VersionsOf, Versions, "uploads", most=4 << 20)
# In: a manifest, once all its blobs are here.
commit_upload = Request("commit_upload", CommitUpload, Committed, "uploads")
remove_upload = Request("remove_upload", RemoveUpload, Removed, "uploads")
# Out: the manifest of a resource; of a run that goes on, or was killed, that of its work tree, not hashed.
tree = Request("tree", OfResource, Tree, "uploads")
# In: paths below the resource, each ended by a zero byte. Out, once all have come, for each in that order: {"s": size,
# "x": executable} with its first bytes, more bytes, then {"h": SHA-256, "c": whether it changed meanwhile}; or
# {"gone": why}.
get = Request("get", OfResource, Nothing, "uploads")


# -- runs


class RunKey(Record):
    key: str


class RunKeys(Record):
    """None: all runs of the home. Of `waiting`, which are known to wait, those that still do are not read."""

    keys: Optional[List[str]] = None
    waiting: List[str] = []


class Status(Record):
    status: RunStatus


class Statuses(Record):
    """Of the runs that are here; why one can't be read, by its key; those of `RunKeys.waiting` that wait as before."""

    runs: List[RunStatus]
    unreadable: Dict[str, str] = {}
    waiting: List[str] = []


class RunDetails(Record):
    """`spec` without the values of variables that the user set; `folder`: where it lies on its host; `mounts`: what was
    found for each of its mounts, none in a bucket; `reading`: how its log is read, if that was changed afterwards."""

    status: RunStatus
    spec: Dict[str, Any]
    folder: str
    events: List[RunEvent]
    mounts: List[ResolvedMount] = []
    reading: Optional[LogReading] = None


class EndRuns(Record):
    """`grace`: seconds between SIGTERM and SIGKILL; None: they are killed."""

    keys: List[str]
    grace: Optional[float] = 10.0


class Notify(Record):
    """Addresses that get word of a run, too, by what may be shown of each."""

    key: str
    addresses: Dict[str, str]


class Acknowledgement(Record):
    """`asked`: the run had not ended, and has been told to; `already`: it had been told before."""

    asked: bool
    status: RunStatus
    already: bool = False


class EndedRuns(Record):
    """Of the runs that are here; why one can't be ended, by its key."""

    runs: List[Acknowledgement]
    failed: Dict[str, str] = {}


class Renewal(Record):
    """A grant in the place of one that has expired, or will."""

    key: str
    grant: Grant


class Follow(Record):
    key: str
    offset: int = 0
    """From this byte of the log on."""
    events: int = 0
    """From this number of an event on."""
    follow: bool = True
    """Until the run has ended; else what the host has now."""
    tail: Optional[int] = None
    """Only so many last lines of the log, and of stderr."""
    since: Optional[float] = None
    """Only what was written at that time or later: seconds since 1970 by the host's clock."""
    timed: bool = False
    """Pieces come with their times."""
    log: bool = True
    """False: only the events come."""
    err: int = 0
    """From this byte of stderr on, where it is apart."""


class Followed(Record):
    """Where the log, the events, and stderr where it is apart, ended for now."""

    status: RunStatus
    offset: int
    events: int
    err: int = 0


class TakeObjects(Record):
    """`wait`: seconds in which the first object may come."""

    key: str
    wait: float = 0.0


# A rented host does not end for want of use from the first frame on, which is empty, until the stream ends. "leaving"
# where it ends already.
stay = Request("stay", Nothing, Nothing, "runs")
# In: a `Submission` (submission.py). Mounts are resolved, and refused, before anything is made.
submit = Request("submit", Nothing, Status, "runs")
runs = Request("runs", RunKeys, Statuses, "runs", most=4 << 20)
run = Request("run", RunKey, RunDetails, "runs", most=MOST_BYTES + (4 << 20))
end = Request("end", EndRuns, EndedRuns, "runs", most=4 << 20)
notify = Request("notify", Notify, Acknowledgement, "runs")
# Out, for each object of a run that waits for a client: frames {"object": its key in the bucket, "file": its name} with
# its bytes, the last of them without any. In: {"taken": the file of one that is in the bucket, or ""} now and then: as
# long as they come the host waits.
take = Request("take", TakeObjects, Nothing, "carried")
# A run that waits for its bucket goes on at once. Of one that has ended nothing is saved.
renew = Request("renew", Renewal, Nothing, "runs")
remove_run = Request("remove_run", RunKey, Removed, "runs")
# Out: {"event": …, "n": its number, "past": whether a later state had followed}, {"log": offset, "t": time} with bytes
# of the log, {"err": offset, "t": time} with bytes of stderr where it is apart, {"build": the last line of the
# environment's build}, {"line": an `Occupancy`} now and then while the run waits for its turn; first of all, where
# `tail` or `since` is asked for, or an earlier host wrote the first part, {"starts": {"log": offset, "err": offset}}.
# The bytes come whole and once, each kind in its order; all of them come before the event that ends the run.
follow = Request("follow", Follow, Followed, "runs")


class Measured(Record):
    """The points of a run (measured.py) that a client lacks: from this byte of either file on, and the names of its
    metrics' series from this number on."""

    key: str
    metrics: int = 0
    usage: int = 0
    names: int = 0


class MeasuredUntil(Record):
    """Where the files ended for now, and how far the run is."""

    metrics: int
    usage: int
    names: int
    status: RunStatus


class ReadAgain(Record):
    """Read the metrics of a run from its log once more, in place of those that it has from there. None: as the run was
    asked for."""

    key: str
    reading: Optional[LogReading] = None


read_again = Request("read_again", ReadAgain, RunStatus, "measured")


class LogPart(Record):
    """Bytes of a log: from `start` on, or where that is below 0 so many before its end, and `size` of them at most."""

    key: str
    start: int = 0
    size: int = 1 << 18
    name: str = "log"
    """Or "err", for stderr where it is apart."""


class LogRead(Record):
    """Where the bytes that came begin, and how many the log has by now."""

    start: int
    total: int


class SearchLog(Record):
    """A text to look for in a log, in any case of letters, from byte `start` on: at most `most` lines that hold it."""

    key: str
    text: str
    start: int = 0
    most: int = 500
    name: str = "log"


class Hit(Record):
    """A line that holds it: the byte at which the line begins, and its first 300 characters."""

    offset: int
    line: str


class Hits(Record):
    """`until`: the byte up to which was searched, from which another search goes on; `total`: how many there are."""

    hits: List[Hit]
    until: int
    total: int


# Out: {"names": [name, ...]}, {"metrics": offset} with whole points, {"usage": offset} with whole points.
measured = Request("measured", Measured, MeasuredUntil, "measured")
# Out: the bytes, in frames.
log_part = Request("log_part", LogPart, LogRead, "measured")
search_log = Request("search_log", SearchLog, Hits, "measured", most=4 << 20)


# -- who uses the machine


class Demand(Record):
    """What a run asks for: `gpus`, `cpus` and bytes of `memory`, on a machine whose setting is `slots`. `patience`:
    seconds that the driver of the GPUs has to answer. `whole`: the load, memory, disk and all GPUs are asked for, too.
    `queue`: where it waits."""

    gpus: int = 0
    slots: Optional[int] = None
    patience: float = 2.0
    whole: bool = False
    queue: str = ""
    scheduling: Optional[Scheduling] = None
    cpus: Optional[int] = None
    memory: Optional[int] = None


class Claim(Record):
    """A run that holds a slot or GPUs, or waits for them. The number and the command of one that waits come with
    `Demand.whole` only."""

    key: str
    number: int
    command: str
    state: RunState
    gpus: int = 0
    running: Optional[float] = None
    """For how many seconds."""
    place: int = 0
    """In the line, 1 is the next; 0: it holds what it needs."""
    of: int = 0
    """How many are in that line."""
    starts_now: bool = False
    """It waits no longer: there is room for it, and for all before it."""


class GpuUser(Record):
    """A process that is not of remoterun; `memory` in MiB, `user` is "" where that can't be told."""

    pid: int
    name: str
    user: str
    memory: int


class GpuUse(Record):
    """A GPU; memory in MiB. `run`: the key of the run that holds it; `others` compute on one that no run holds."""

    number: int
    name: str
    memory: int
    memory_used: int
    run: str = ""
    others: List[GpuUser] = []


class Occupancy(Record):
    """Who uses a machine. A run with this demand would start at once (`free`), or with `before` runs before it in its
    line; `lacks`: why it could never start.

    `gpus_unknown`: why nothing is known of the GPUs. `load` is that of the last minute; memory and disk in bytes; all
    of these are 0 unless they were asked for.
    """

    free: bool
    before: int
    slots: int
    gpus: List[GpuUse]
    runs: List[Claim]
    lacks: Optional[str] = None
    gpus_unknown: Optional[str] = None
    cluster: List[str] = []
    """Of a scheduler, a line for each part of its cluster, in place of slots and of what one machine has."""
    cpus: int = 0
    load: float = 0.0
    memory: int = 0
    memory_free: int = 0
    disk: int = 0
    disk_free: int = 0


occupancy = Request("occupancy", Demand, Occupancy, "upkeep", most=4 << 20)


# -- inside a run that is going on


class Words(Record):
    words: List[str]


# The words which, before those that start an agent, start it on the machine where a run is; none where that is this
# one, or not known yet. The requests about what goes on inside a run, and about its ports, are asked of that agent.
reach = Request("reach", RunKey, Words, "exec")


class Execute(Record):
    """A program in a run: `command` is a line for the shell, None a shell. `terminal` is the kind of terminal (TERM)
    that its standard streams are, with `size`, rows and columns; "": they are none."""

    key: str
    command: Optional[str] = None
    terminal: str = ""
    size: List[int] = [24, 80]


class Exit(Record):
    code: int


# In: what the program reads, and {"size": [rows, columns]} when that of its terminal changes; the end of its input.
# Out: {"started": 1}, then what it writes, with {"error": 1} what it writes as errors. It ends with its client.
# Refused with "not_running" where the command of the run has not started, or has ended.
execute = Request("execute", Execute, Exit, "exec")


class GpuSample(Record):
    """A GPU of a run; memory in bytes, of `total`. `percent`: how busy it is."""

    number: int
    name: str
    percent: Optional[float]
    memory: int
    total: int


class Sample(Record):
    """How much a run used at time `t` (seconds since 1970): `cpu` in percent of one CPU; `memory` in bytes; disk
    (`read`, `written`) and network (`received`, `sent`) in bytes a second. None: it can't be told, or does not run."""

    key: str
    t: float
    state: RunState
    cpu: Optional[float] = None
    memory: Optional[int] = None
    gpus: List[GpuSample] = []
    read: Optional[float] = None
    written: Optional[float] = None
    received: Optional[float] = None
    sent: Optional[float] = None


class Sampling(Record):
    keys: List[str]


class Samples(Record):
    samples: List[Sample]


# Takes as long as rates are measured.
sample = Request("sample", Sampling, Samples, "exec")


# -- the ports of a run


class Ports(Record):
    key: str
    ports: List[int]


class Port(Record):
    key: str
    port: int


# Out: {"waiting": port, "others": [port]} for each on which nobody listens when the command runs, with those on which
# the run listens, and again when these have changed; {"up": port} when somebody begins to listen, {"down": port} when
# nobody does any more. It waits for the run to start, and ends with its command.
watch_ports = Request("watch_ports", Ports, Nothing, "ports")
# In and out: the bytes of one TCP connection to the port, as splicing.py says. Refused with "not_listening".
connect = Request("connect", Port, Nothing, "ports")


# -- the machine, and the upkeep of the home


class Examine(Record):
    """With which settings of the machine."""

    engine: str = "auto"
    gpus: int = 0
    base: str = ""
    queue: str = ""
    scheduling: Optional[Scheduling] = None


class MachineCheck(Record):
    """A line of `doctor`."""

    name: str
    ok: Optional[bool]
    """None for what is not needed, or not known."""
    detail: str = ""
    fix: Optional[str] = None
    """What to type, or a text to paste."""
    time: Optional[float] = None
    """The machine's clock."""
    scheduling: Optional[Scheduling] = None
    """The settings that runs on it need for the queue whose name is the detail."""


class MachineChecks(Record):
    checks: List[MachineCheck]


class CheckHome(Record):
    set_aside: bool = True
    """What is damaged is moved away, so that an upload of it sends it again."""


class CheckTotals(Record):
    blobs: int
    size: int
    """Bytes of the blobs."""
    more: int
    """Findings that were too many to name."""


class Collect(Record):
    keep: Optional[int] = None
    """Versions of each upload that stay; None: all."""
    envs: bool = False
    """Free environments, too."""
    unused: float = 7 * 86400.0
    """Seconds without use after which these are freed."""
    dry_run: bool = False


class CollectTotals(Record):
    freed: int
    """Bytes."""
    free: int
    """Bytes of the disk: as many as a file may have where it has no end."""


class UsageTotals(Record):
    total: int
    """Bytes of the home."""
    free: int
    """Bytes of its disk that are free."""
    disk: int
    """Bytes of its disk."""
    blobs: int
    """How many it has."""
    size: int
    """Their bytes."""
    shared: int
    """How many of them have several users."""
    shared_size: int
    """The bytes of these."""


doctor = Request("doctor", Examine, MachineChecks, "upkeep")
# Out: {"at": progress} now and then, {"finding": what is damaged} for each.
check = Request("check", CheckHome, CheckTotals, "upkeep")
# Out: {"part": …} for each kind of thing that was freed, {"kept": …}.
collect = Request("collect", Collect, CollectTotals, "upkeep")
# Out: {"row": …} for each user of the disk.
usage = Request("usage", Nothing, UsageTotals, "upkeep")


# -- word of runs


class Webhook(Record):
    """Where to post; a secret."""

    address: str


class WebhookAnswer(Record):
    """The status that its server answered, and the beginning of its words."""

    status: int
    said: str


# A message of no run is posted, once.
notify_test = Request("notify_test", Webhook, WebhookAnswer, "upkeep")


REQUESTS: Dict[str, "Request[Any, Any]"] = {
    request.name: request for request in list(globals().values()) if isinstance(request, Request)
}
