"""The command line: command name to function, nothing else. Importing this imports no torch."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress

from cyclopts import App, CycloptsError

from aminoglot.errors import AminoglotError
from aminoglot.version import __version__

app = App(
    name="aminoglot",
    help="Protein language models, from sequences to embeddings you can trust.",
    version=__version__,
    help_format="markdown",
    suppress_keyboard_interrupt=False,
)
app.command("aminoglot.commands.embed:embed", name="embed", help="Embed proteins into one file.")
app.command("aminoglot.commands.checkpoints:convert", name="convert", help="Write a model in another format.")
app.command("aminoglot.commands.finetune:finetune", name="finetune", help="Learn a property from labelled proteins.")
app.command("aminoglot.commands.flip:flip", name="flip", help="Evaluate a model on FLIP's five tasks.")
app.command("aminoglot.commands.checkpoints:inspect", name="inspect", help="Say what a model's files hold.")
app.command("aminoglot.commands.corpus:app", name="corpus", help="Build, look at and exchange training sets.")
app.command(
    "aminoglot.commands.plan:plan", name="plan", help="Say what embedding proteins will take, before it is begun."
)
app.command("aminoglot.commands.predict:predict", name="predict", help="Predict what a finetune run learnt.")
app.command("aminoglot.commands.pretrain:pretrain", name="pretrain", help="Train a model from a file that says how.")
app.command("aminoglot.commands.models:models", name="models", help="List the models known by name.")
app.command("aminoglot.commands.checkpoints:verify", name="verify", help="Check a model's weights and numbers.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 done, 1 not everything could be done, 2 wrong usage, 130 interrupted."""
    with suppress(ValueError, AttributeError):  # not in the main thread, or no such signal
        for name in ("SIGTERM", "SIGHUP"):  # what a scheduler sends: end as by Ctrl-C, other programs with us
            if signal.getsignal(getattr(signal, name)) is signal.SIG_DFL:
                signal.signal(getattr(signal, name), signal.default_int_handler)
    try:
        status = app(arguments, exit_on_error=False, result_action="return_value")
        sys.exit(status if isinstance(status, int) else 0)
    except CycloptsError:  # printed already
        sys.exit(2)
    except AminoglotError as error:
        _say(f"error: {error}")
        sys.exit(1)
    except KeyboardInterrupt:
        _say("interrupted; what is done is kept. Run the same command again to go on")
        os._exit(130)  # threads may still hold work that would only delay the exit


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
