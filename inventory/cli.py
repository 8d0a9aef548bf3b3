"""The `inventory` command.

Exit codes: 0 success; 1 the command found something wrong; 2 wrong usage, wrong settings or an unreachable server;
70 a bug; 75 start again (`inventory run` only); 130 interrupted. Commands raise `OperatorError` for 2 and
`typer.Exit(1)` for 1.
"""

import sys
import traceback
from typing import Final

import typer

from engine.crash import EXIT_BUG
from inventory import logs
from inventory.commands import (
    api,
    audit,
    contracts,
    demo,
    dlq,
    levels,
    migrate,
    outbox,
    publish,
    recover,
    run,
    settings,
    stock,
    token,
    topics,
)
from inventory.errors import OperatorError

EXIT_OPERATOR: Final = 2

app = typer.Typer(
    name="inventory",
    help="Turn cart, order and payment events from Kafka into stock in PostgreSQL: exactly once, never oversold.\n\n"
    "Settings are INVENTORY_ environment variables; `inventory settings` shows them.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain help takes a third of the time and keeps paragraphs
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

# The modules of the commands import at the top only what `--help` needs.
app.command("run")(run.run)
app.command("api")(api.api)
app.command("token")(token.token)
app.command("settings")(settings.show)
app.add_typer(topics.app, name="topics")
app.add_typer(contracts.app, name="contracts")
app.command("migrate")(migrate.migrate)
app.add_typer(stock.app, name="stock")
app.command("audit")(audit.audit)
app.command("demo")(demo.demo)
app.command("publish")(publish.publish)
app.command("recover")(recover.recover)
app.add_typer(recover.app, name="stream")
app.add_typer(dlq.app, name="dlq")
app.add_typer(outbox.app, name="outbox")
app.add_typer(levels.app, name="levels")


def main() -> None:
    """Run the command line: one line for what an operator can fix, a traceback and exit code 70 for a bug."""
    logs.silence_clients()
    try:
        app()
    except OperatorError as error:
        for line in str(error).splitlines():
            sys.stderr.write(f"inventory: {line}\n")
        sys.exit(EXIT_OPERATOR)
    except Exception:  # noqa: BLE001 - any other exception is a bug
        traceback.print_exc()
        sys.stderr.write("inventory: this is a bug, please report the lines above\n")
        sys.exit(EXIT_BUG)
