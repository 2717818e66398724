"""What stands around the parts of an answer, and is none of them: headers and ends of messages."""

from __future__ import annotations

from typing import NamedTuple


class Frames(NamedTuple):
    """dropped: what is taken out wherever it stands in an answer, behind its thoughts.

    begun: what the prompt has of the first header. header: an expression for how it goes on, if one comes;
    partial: for how that may begin.
    """

    dropped: tuple[str, ...]
    begun: str = ""
    header: str = ""
    partial: str = ""


# Functionary 3.2: each part for a recipient, the user's for `all`.
RECIPIENTS = Frames((">>>all\n",), ">>>", r"[\w.-]{1,64}\n", r"[\w.-]{0,64}")
# Muse Glimmer: messages for recipients.
ADDRESSED = Frames(
    ("<|start|>assistant to=user<|message|>", "<|eom|>", "<|eot|>"), "<|start|>assistant", " to=", " ?t?o?"
)
ENDS = Frames(("<|message_sep|>",))  # GigaChat 3
SOLAR = Frames(("<|begin|>assistant", "<|content|>", "<|end|>", "<|flush|>"))  # Solar Open
# Kimi K3: tags of three tokens.
SECTIONS = Frames(
    (
        "<|open|>response<|sep|>",
        "<|close|>response<|sep|>",
        "<|close|>message<|sep|>",
        "<|close|>think<|sep|>",
        "<|end_of_msg|>",
    )
)
