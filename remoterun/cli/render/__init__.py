"""All that is printed. stdout is data; stderr is talk. Colours, bars and spinners only on a terminal.

`out`, `line` and `table` clean what they are given, so that no text from elsewhere reaches a terminal as a command.
"""

from remoterun.cli.render.figures import dollars, duration, files, hourly, name, size, word
from remoterun.cli.render.file_views import (
    added,
    copy_warnings,
    fetched,
    manifest,
    not_finished,
    page,
    page_shown,
    secrets,
    to_remove,
    uploaded,
    uploads,
    versions,
)
from remoterun.cli.render.live_views import Board, Steps, busy, progress
from remoterun.cli.render.machine_views import (
    bucket_lines,
    checks,
    hosts_table,
    machines,
    machines_status,
    orphans,
    plan_lines,
    renting,
    renting_goes_on,
    whoami,
)
from remoterun.cli.render.output import ReaderGone, finish, heading, new_page, out, out_bytes, out_json, out_text
from remoterun.cli.render.run_views import (
    detached,
    difference,
    ended,
    ending,
    kept,
    not_reached,
    run_info,
    runs_table,
    state_text,
    variables,
)
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
from remoterun.cli.render.upkeep import checked, collected, usage_table
