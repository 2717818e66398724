"""Names → models. An unknown name means the default model of what is asked for, unless names are strict."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llm_serving.backends import DIRECTORY_BACKENDS
from llm_serving.backends.memory_need import MemoryNeed
from llm_serving.config import Settings, SettingsError, env_name, flag_name
from llm_serving.errors import InvalidRequest, ModelNotFound
from llm_serving.models import find_model, parse_hub_name
from llm_serving.service.adapters import NamedAdapter, named_adapters
from llm_serving.service.encoder_loader import load_encoder_model
from llm_serving.service.loader import load_chat_model, no_adapters
from llm_serving.service.measuring import measure_model, read_profile
from llm_serving.service.model import ChatModel, EncoderModel, ModelKind
from llm_serving.service.naming import LATEST, check_further, public_name, spellings
from llm_serving.service.quiet import Quiet
from llm_serving.service.reasons import folders_of
from llm_serving.service.residency import AnySlot, Residency
from llm_serving.service.slot import ModelSlot

LoadModel = Callable[[Settings], ChatModel]
LoadEncoder = Callable[[Settings, ModelKind], EncoderModel]
MeasureModel = Callable[[Settings, ModelKind], MemoryNeed | None]
ChatSlot = ModelSlot[ChatModel]
EncoderSlot = ModelSlot[EncoderModel]

LOAD_WAIT_S = 300.0  # whoever has a model loaded waits so long for it; a download may take longer


class Registry:
    """The models of this server: `default` and `further` chat, each that the settings do not name is None.

    `adapters` belong to the default model, which answers to their names as well.
    `load` and `load_encoder` make models, `measure` tells what one will take, all on other threads.
    Event loop only. Raises: SettingsError for no model at all, and for further models and adapters that have
    no name of their own, or that the engine does not run.
    """

    def __init__(
        self,
        settings: Settings,
        load: LoadModel = load_chat_model,
        load_encoder: LoadEncoder = load_encoder_model,
        measure: MeasureModel = measure_model,
    ) -> None:
        self._settings = settings
        self._load, self._load_encoder, self._measure = load, load_encoder, measure
        self._strict = settings.strict_model_names
        self._drain_s = settings.drain_s
        self._closing: asyncio.Future[list[None]] | None = None
        self._own: dict[AnySlot, Settings] = {}  # of chat models
        self._reading: asyncio.Task[None] | None = None
        self._slots: dict[str, AnySlot] = {}
        self._residency = Residency(settings.memory, settings.unload_after_s)
        self._quiet = Quiet()
        self.adapters = named_adapters(settings)
        name, on_demand = settings.model_name, settings.unload_after_s > 0
        self.default = self._chat(name, on_demand=on_demand, lora=settings.lora) if name else None
        self.embedding = self._encoder(settings.embedding_model, ModelKind.EMBEDDING)
        self.reranker = self._encoder(settings.reranker_model, ModelKind.RERANKER)
        self.classifier = self._encoder(settings.classifier_model, ModelKind.CLASSIFIER)
        check_further(settings, self._slots)
        self.further = [self._chat(name, on_demand=True) for name in settings.further_models]
        self._adapters: dict[str, NamedAdapter] = {}
        self._name_adapters(settings)
        self._residency.slots = self._quiet.slots = self.slots()
        self._residency.leaving = [*self.further, *self.encoders()]
        self._residency.refused = self.further

    def find(self, name: str | None) -> ChatSlot:
        """The chat model that answers to `name`.

        Raises: ModelNotFound (names are strict and this one is unknown, or no model chats), InvalidRequest
        (it does not chat).
        """
        slots = self.chatting()
        if not slots:
            raise ModelNotFound(name or "", f"Start the server with {flag_name('model_name')}.")
        named = self._choose(name, slots, "Name a chat model")
        return next((slot for slot in slots if slot is named), slots[0])

    def adapter(self, name: str | None) -> NamedAdapter | None:
        """The adapter of this name, where `find` gives the model that it belongs to; mostly None."""
        if not self._adapters or name is None:
            return None
        return next((self._adapters[key] for key in spellings(name) if key in self._adapters), None)

    def find_embedding(self, name: str | None) -> EncoderSlot:
        """As `find`, for embeddings. Raises ModelNotFound also if there is no embedding model at all."""
        return self._encoding(name, [self.embedding], ["embedding_model"], "Name an embedding model")

    def find_scorer(self, name: str | None) -> EncoderSlot:
        """As `find_embedding`, for scores of pairs: the reranker, or else the embedding model."""
        able, settings = [self.reranker, self.embedding], ["reranker_model", "embedding_model"]
        return self._encoding(name, able, settings, "Name a reranker or an embedding model")

    def find_classifier(self, name: str | None) -> EncoderSlot:
        """As `find_embedding`, for classes."""
        return self._encoding(name, [self.classifier], ["classifier_model"], "Name a classifier")

    def exact(self, name: str) -> AnySlot:
        """The slot of this name or alias, whatever it is for. Raises: ModelNotFound."""
        slot = self._named(name)
        if slot is None:
            raise ModelNotFound(name, self._served())
        return slot

    def whole(self, name: str) -> AnySlot:
        """As `exact`, for what is done to all of a model. Raises also: InvalidRequest for an adapter."""
        slot = self.exact(name)
        if self.adapter(name) is not None:
            raise InvalidRequest(
                f"'{name}' is an adapter, which comes and goes with its model. Name that: {slot.name}.",
                "model",
            )
        return slot

    def chatting(self) -> list[ChatSlot]:
        """The chat models, the default one first."""
        return [*([self.default] if self.default is not None else []), *self.further]

    def reads_images(self) -> bool:
        """Whether any of them does, loaded or not, as far as that is known."""
        return any(slot.profile is not None and slot.profile.sees for slot in self.chatting())

    def encoders(self) -> list[EncoderSlot]:
        """The models that do not chat, as far as there are any."""
        return [slot for slot in (self.embedding, self.reranker, self.classifier) if slot is not None]

    def slots(self) -> list[AnySlot]:
        """All, chat models first."""
        return [*self.chatting(), *self.encoders()]

    def starting(self) -> list[AnySlot]:
        """Those that are loaded from the start, in this order."""
        return [*([self.default] if self.default is not None else []), *self.encoders()]

    @property
    def first(self) -> AnySlot:
        """The model by which the server is ready or not: the default one, or what there is in its place."""
        return self.starting()[0]

    def aliases(self, slot: AnySlot) -> list[str]:
        """Further names of a model; never a path of this machine."""
        spec = find_model(slot.name)
        return list(spec.aliases) if spec else []

    def start(self) -> None:
        """Begin to load, one model after another, so that nothing delays the chat model; returns at once.

        Further models come behind them, when requests name them.
        """
        self._residency.begin()
        self._quiet.begin()
        before: AnySlot | None = None
        for slot in self.starting():
            slot.start(after=before)
            before = slot
        for further in self.further:
            further.offer(behind=self.starting()[-1])
        if self.further:
            self._reading = asyncio.ensure_future(self._read_profiles())

    async def load(self, name: str) -> AnySlot:
        """Have the model of this name loaded, which then can answer; at once if it can already.

        Whoever waits may leave: loading goes on. Raises: as `whole`, ModelUnavailable (it failed, or the
        server is stopping), ModelLoading (it takes longer than anybody waits).
        """
        slot = self.whole(name)
        if self._closing is None:
            slot.start()
        await slot.soon(LOAD_WAIT_S)
        return slot

    async def unload(self, name: str, remedy: str) -> AnySlot:
        """Have nothing of the model of this name in memory; `remedy` tells its users how to have it back.

        New requests are refused at once, running ones get the time they have when the server stops. Once that
        has begun, whoever waits may leave. Raises: as `whole`, ModelLoading (it takes longer than that).
        """
        slot = self.whole(name)
        await slot.unload(self._drain_s, f"it was unloaded. {remedy}", LOAD_WAIT_S)
        return slot

    def begin_close(self) -> None:
        """Refuse new requests from now on and start to drain; returns at once."""
        if self._closing is None:
            self._residency.end()
            self._quiet.end()
            if self._reading is not None:
                self._reading.cancel()
            self._closing = asyncio.gather(*(slot.close(self._drain_s) for slot in self.slots()))

    async def close(self) -> None:
        """Drain and unload."""
        self.begin_close()
        if self._closing is not None:
            await self._closing

    def _chat(self, name: str, *, on_demand: bool, lora: tuple[str, ...] = ()) -> ChatSlot:
        """Only the first model has adapters, a draft model and a projector that the settings name."""
        beside: dict[str, Any] = {"lora": lora}
        if name != self._settings.model_name:
            beside |= {"draft_model": "", "mmproj": None}
        own = self._settings.model_copy(update={"model_name": name, **beside})

        def load() -> ChatModel:
            granted = self._grant(slot, own)
            model = self._load(own if granted is None else own.model_copy(update={"memory": granted}))
            self._quiet.expect(slot)
            return model

        slot = ModelSlot(public_name(name), load, on_demand=on_demand, **self._how(name))
        self._own[slot] = own
        self._name(slot, name)
        return slot

    def _encoder(self, name: str, kind: ModelKind) -> EncoderSlot | None:
        if not name:
            return None

        def load() -> EncoderModel:
            self._grant(slot, self._settings)
            return self._load_encoder(self._settings, kind)

        leaves = self._settings.unload_after_s > 0 or bool(self._settings.further_models)
        slot = ModelSlot(public_name(name), load, kind, on_demand=leaves, **self._how(name))
        self._name(slot, name)
        return slot

    def _how(self, name: str) -> dict[str, Any]:
        settings = self._settings
        others = [Path(settings.draft_model), *(Path(each.source) for each in self.adapters)]
        others += [settings.mmproj] if settings.mmproj else []
        folders = folders_of(name, settings.cache_dir, *(path.parent for path in others))
        return {"max_waiting": settings.max_concurrency + settings.max_queue, "folders": folders}

    def _grant(self, slot: AnySlot, own: Settings) -> int | None:
        """Bytes for a model that is about to be loaded; None where nobody counts, as for one alone."""
        need = self._measure(own, slot.kind) if own.further_models else None
        return None if need is None else self._residency.grant(slot, need)

    async def _read_profiles(self) -> None:
        """Lists tell of further models before they are loaded. Nothing waits for this."""
        await self.starting()[-1].settled()
        for slot in self.further:
            profile = await asyncio.to_thread(read_profile, self._own[slot])
            slot.profile = slot.profile or profile

    def _name_adapters(self, settings: Settings) -> None:
        if self.adapters and settings.engine in DIRECTORY_BACKENDS:
            raise SettingsError(no_adapters(settings.engine))
        for adapter in self.adapters:
            key = adapter.name.casefold()
            if key in self._slots or key.removesuffix(LATEST) in self._slots:
                what = f"{flag_name('lora')} ({env_name('lora')})"
                raise SettingsError(
                    f"{what}: '{adapter.name}' names two of the models. Give it another name."
                )
            self._slots[key] = self.first
            self._adapters[key] = adapter

    def _name(self, slot: AnySlot, setting: str) -> None:
        spec, on_hub = find_model(setting), parse_hub_name(setting)
        for name in (setting, slot.name, *(spec.aliases if spec else ()), *([str(on_hub)] if on_hub else [])):
            self._slots.setdefault(name.casefold(), slot)

    def _named(self, name: str) -> AnySlot | None:
        return next((self._slots[key] for key in spellings(name) if key in self._slots), None)

    def _choose(self, name: str | None, able: Sequence[AnySlot], remedy: str) -> AnySlot:
        slot = self._named(name) if name else able[0]
        if slot is None:
            if self._strict:
                raise ModelNotFound(name or "", self._served())
            return able[0]
        if not any(slot is one for one in able):
            raise InvalidRequest(
                f"The model '{slot.name}' is for {slot.kind.value} only. {remedy}: {able[0].name}.", "model"
            )
        return slot

    def _encoding(
        self, name: str | None, able: Sequence[EncoderSlot | None], settings: list[str], remedy: str
    ) -> EncoderSlot:
        slots = [slot for slot in able if slot is not None]
        if not slots:
            raise ModelNotFound(name or "", f"Start the server with {' or '.join(map(flag_name, settings))}.")
        named = self._choose(name, slots, remedy)
        return next((slot for slot in slots if slot is named), slots[0])

    def _served(self) -> str:
        return f"Served here: {', '.join(each.name for each in (*self.slots(), *self.adapters))}."
