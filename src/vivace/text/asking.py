"""Which words of a question only ask?"""

from __future__ import annotations

import re
from typing import Final

_ASKING: Final = re.compile(
    "什么|怎么|怎样|如何|为何|哪[些个位里一种年家座次]?|多[少长久大高远]|几[个年月次]?|谁|吗|呢|请问"
    "|是否|何[时地处]|[的了是在有和与及被将为]"
)


def without_asking(question: str) -> str:
    """The question without the Chinese words that ask or bind: an answer does not repeat them."""
    return _ASKING.sub(" ", question)
