"""Croissant JSON-LD (https://docs.mlcommons.org/croissant/docs/croissant-spec.html) of a dataset's shards.

`OUT/croissant.json` names the columns, so that search engines and loaders know what is in `shards/` without opening it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import pyarrow as pa

from pipelines import record

CROISSANT: Final = "croissant.json"
CONFORMS_TO: Final = "http://mlcommons.org/croissant/1.0"
SHARDS: Final = "shards"
SAMPLES: Final = "samples"

_CONTEXT: Final[Mapping[str, Any]] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""The names that version 1.0 of the specification gives."""

_ABOUT: Final = {
    "key": "Unique across datasets.",
    "source": "Where the row is from: ghi, laion-human, human-art or coco.",
    "image": "JPEG, WebP or PNG.",
    "caption": "The text.",
    "num_people": "People in `people`, crowds left out.",
    "min_keypoint_score": "The lowest of the people's mean keypoint confidences, 0-1.",
    "people": "Boxes (x, y, width, height) and 17 COCO keypoints (x, y, confidence), in pixels.",
    "annotation": "JSON of what else an imported record carried.",
    "prompt": "The parts of the prompt as chosen.",
    "generation": "How the image was sampled.",
    "origin": "Where the image was published.",
    "phash": "64-bit perceptual hash (DCT).",
}


def describe(name: str, description: str, licence: str, keywords: tuple[str, ...]) -> dict[str, Any]:
    """The JSON-LD of a dataset in `shards/*.parquet` beside it."""
    return {
        "@context": dict(_CONTEXT),
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": name,
        "description": description,
        "license": licence,
        "keywords": list(keywords),
        "version": f"{record.SCHEMA_VERSION}.{record.DATA_VERSION}.0",
        "citeAs": "Ju et al., HumanSD: A Native Skeleton-Guided Diffusion Model for Human Image Generation, ICCV 2023",
        "distribution": [
            {
                "@type": "cr:FileSet",
                "@id": SHARDS,
                "name": SHARDS,
                "description": "Accepted samples, a row each.",
                "encodingFormat": "application/x-parquet",
                "includes": "shards/*.parquet",
            }
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": SAMPLES,
                "name": SAMPLES,
                "key": {"@id": f"{SAMPLES}/key"},
                "field": [_field(field) for field in record.SCHEMA],
            }
        ],
    }


def _field(field: pa.Field) -> dict[str, Any]:
    found: dict[str, Any] = {"@type": "cr:Field", "@id": f"{SAMPLES}/{field.name}", "name": field.name}
    if field.name in _ABOUT:
        found["description"] = _ABOUT[field.name]
    source: dict[str, Any] = {"fileSet": {"@id": SHARDS}, "extract": {"column": field.name}}
    if field.name == "image":
        return {**found, "dataType": "sc:ImageObject", "source": {**source, "transform": {"jsonPath": "bytes"}}}
    kind = field.type
    if pa.types.is_list(kind):
        found["repeated"] = True
        kind = kind.value_type
    if not pa.types.is_struct(kind):
        return {**found, "dataType": _data_type(kind), "source": source}
    parts = (kind.field(i) for i in range(kind.num_fields))
    return {**found, "source": source, "subField": [_part(field.name, part, source) for part in parts]}


def _part(parent: str, field: pa.Field, source: Mapping[str, Any]) -> dict[str, Any]:
    many = pa.types.is_list(field.type)
    return {
        "@type": "cr:Field",
        "@id": f"{SAMPLES}/{parent}/{field.name}",
        "name": field.name,
        "dataType": _data_type(field.type.value_type if many else field.type),
        **({"repeated": True} if many else {}),
        "source": {**source, "transform": {"jsonPath": field.name}},
    }


def _data_type(kind: pa.DataType) -> str:
    if pa.types.is_integer(kind):
        return "sc:Integer"
    return "sc:Float" if pa.types.is_floating(kind) else "sc:Text"
