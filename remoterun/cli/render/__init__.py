"""All that is printed. stdout is data; stderr is talk. Colours, bars and spinners only on a terminal.

`out`, `line` and `table` clean what they are given, so that no text from elsewhere reaches a terminal as a command.
"""

from remoterun.cli.render.bars import progress
from remoterun.cli.render.data import ReaderGone, finish, heading, new_page, out, out_bytes, out_json
from remoterun.cli.render.differences import difference, difference_record
from remoterun.cli.render.listings import (
    check_records,
    checks,
    machines,
    manifest,
    run_resources,
    secrets,
    to_remove,
    uploads,
    versions,
    whoami,
)
from remoterun.cli.render.live_usage import Board
from remoterun.cli.render.occupancy import machines_status
from remoterun.cli.render.pages import page, page_shown
from remoterun.cli.render.rented import (
    bucket_lines,
    dollars,
    hosts_table,
    hourly,
    orphans,
    plan_lines,
    renting,
    renting_goes_on,
)
from remoterun.cli.render.runs import (
    detached,
    ended,
    ending,
    kept,
    not_reached,
    run_info,
    runs_table,
    state_text,
    variables,
)
from remoterun.cli.render.steps import Steps, busy
from remoterun.cli.render.talk import (
    ask,
    ask_secret,
    ask_text,
    be_quiet,
    bell,
    choose,
    command_bytes,
    error,
    error_bytes,
    fault,
    hint,
    line,
    loudly,
    time_at_prompts,
    usage,
    warning,
)
from remoterun.cli.render.terminal import DONE, FAILED, clean, person_there, reader_is_terminal
from remoterun.cli.render.transfers import added, copy_warnings, fetched, not_finished, uploaded
from remoterun.cli.render.upkeep import checked, collected, usage_table
from remoterun.cli.render.words import duration, files, name, size, word
