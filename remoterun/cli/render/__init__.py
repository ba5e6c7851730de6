"""All that is printed. stdout is data; stderr is talk. Colours, bars and spinners only on a terminal.

`out`, `line` and `table` clean what they are given, so that no text from elsewhere reaches a terminal as a command.
"""

from remoterun.cli.render.file_views import (
    checked,
    collected,
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
    usage_table,
)
from remoterun.cli.render.live_views import Board, Steps, progress
from remoterun.cli.render.machine_views import (
    bucket_lines,
    checks,
    hosts_table,
    leftovers,
    machines,
    machines_status,
    plan_lines,
    renting,
    renting_goes_on,
    whoami,
)
from remoterun.cli.render.output import (
    ReaderGone,
    ask,
    ask_secret,
    be_quiet,
    begin_question,
    bell,
    choose,
    command_bytes,
    error,
    error_bytes,
    fault,
    finish,
    heading,
    hint,
    line,
    loudly,
    new_page,
    out,
    out_bytes,
    out_json,
    out_text,
    said_by_parser,
    usage,
    warning,
)
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
)
from remoterun.cli.render.terminal import (
    DONE,
    FAILED,
    clean,
    dollars,
    duration,
    files,
    hourly,
    name,
    person_there,
    reader_is_terminal,
    size,
    word,
)
