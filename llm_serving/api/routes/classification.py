"""`POST /classify` and `POST /predict`."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from llm_serving.api.convert import classification as convert
from llm_serving.api.convert.renaming import TRUNCATE, named_as_sent
from llm_serving.api.deps import read_json, services_of, validate
from llm_serving.api.disconnect import until_disconnect
from llm_serving.api.json_response import JsonResponse
from llm_serving.api.schemas.classification import ClassifyRequest, PredictRequest
from llm_serving.api.schemas.neutral import CLASSIFY, PREDICT, ignored_fields
from llm_serving.service.classification import ClassificationRequest, Classified


async def classify(request: Request) -> Response:
    """Probabilities of the model's classes, as vLLM tells them."""
    settings = services_of(request).settings
    body = validate(ClassifyRequest, await read_json(request))
    headers = ignored_fields(body.model_extra or {}, CLASSIFY, strict=settings.strict_parameters)
    classified = await _classify(request, convert.to_classify_request(body, settings.max_embedding_inputs))
    return JsonResponse(convert.to_classify_response(classified), headers=headers)


async def predict(request: Request) -> Response:
    """The same as Text Embeddings Inference tells them."""
    settings = services_of(request).settings
    body = validate(PredictRequest, await read_json(request))
    headers = ignored_fields(body.model_extra or {}, PREDICT, strict=settings.strict_parameters)
    with named_as_sent(TRUNCATE):
        classified = await _classify(request, convert.to_predict_request(body, settings.max_embedding_inputs))
    return JsonResponse(convert.to_predict_response(body, classified), headers=headers)


async def _classify(request: Request, asked: ClassificationRequest) -> Classified:
    services = services_of(request)
    classified = await until_disconnect(request.receive, services.classification.classify(asked))
    request.scope["state"]["log"].update(
        model=classified.model.name, texts=len(classified.values), prompt=classified.num_tokens
    )
    return classified
