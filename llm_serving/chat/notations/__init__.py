"""Notations of calls, one a file; which of them a model knows, its template tells."""

from __future__ import annotations

from llm_serving.chat.notations.deepseek import DEEPSEEK, DEEPSEEK_FENCED
from llm_serving.chat.notations.functionary import FUNCTIONARY, FUNCTIONARY_FOR
from llm_serving.chat.notations.gemma4 import GEMMA4
from llm_serving.chat.notations.gigachat import GIGACHAT, GIGACHAT_ROLE
from llm_serving.chat.notations.glm import GLM, GLM_COMPACT
from llm_serving.chat.notations.hermes import HERMES
from llm_serving.chat.notations.hunyuan import HUNYUAN3
from llm_serving.chat.notations.invoke import DEEPSEEK_DSML, DEEPSEEK_DSML_4, MINIMAX_M2
from llm_serving.chat.notations.json_lists import (
    APERTUS,
    APRIEL,
    COMMAND,
    COMMAND_R,
    FIREFUNCTION,
    GRANITE3,
    MINIMAX_M1,
    NEMOTRON_NANO,
)
from llm_serving.chat.notations.kimi import KIMI
from llm_serving.chat.notations.kimi3 import KIMI3
from llm_serving.chat.notations.lfm2 import LFM2
from llm_serving.chat.notations.llama import LLAMA
from llm_serving.chat.notations.minicpm import MINICPM5
from llm_serving.chat.notations.minimax3 import MINIMAX_M3
from llm_serving.chat.notations.mistral import MISTRAL, MISTRAL_IDS, MISTRAL_LIST
from llm_serving.chat.notations.muse import MUSE
from llm_serving.chat.notations.seed import SEED
from llm_serving.chat.notations.solar import SOLAR_OPEN
from llm_serving.chat.notations.tags import TAGS

# Tried in this order: what has more signs comes before what has some of them.
NOTATIONS = (
    TAGS,
    GLM_COMPACT,
    GLM,
    HERMES,
    LFM2,
    GEMMA4,
    MISTRAL_IDS,
    MISTRAL,
    MISTRAL_LIST,
    DEEPSEEK_FENCED,
    DEEPSEEK,
    KIMI,
    KIMI3,
    SOLAR_OPEN,
    MUSE,
    MINICPM5,
    MINIMAX_M2,
    DEEPSEEK_DSML,
    DEEPSEEK_DSML_4,
    SEED,
    HUNYUAN3,
    MINIMAX_M3,
    COMMAND,
    COMMAND_R,
    APERTUS,
    NEMOTRON_NANO,
    MINIMAX_M1,
    APRIEL,
    GRANITE3,
    FUNCTIONARY,
    FUNCTIONARY_FOR,
    GIGACHAT,
    GIGACHAT_ROLE,
    FIREFUNCTION,
    LLAMA,
)
