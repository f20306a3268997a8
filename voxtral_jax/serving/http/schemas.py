"""What requests and answers look like."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, field_validator

from voxtral_jax.serving.http.encoding import AudioFormat
from voxtral_jax.utterance import LARGEST_SEED


class VoiceId(BaseModel):
    """A voice by its id, as OpenAI's API names voices that were made."""

    model_config = ConfigDict(extra="forbid")

    id: str


# Written out, so that the schema stands by itself and can be shown for JSON and for forms.
VOICE_SCHEMA = {
    "anyOf": [
        {"type": "string"},
        {
            "type": "object",
            "properties": {"id": {"type": "string"}},
            "required": ["id"],
            "additionalProperties": False,
        },
        {"type": "null"},
    ]
}


class Manner(BaseModel):
    """How to speak, whatever is said."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    voice: Annotated[str | VoiceId | None, WithJsonSchema(VOICE_SCHEMA)] = Field(
        None, description="A preset or a kept voice; by default the preset of the language."
    )
    ref_audio: str | None = Field(
        None, description="A recording to clone: data:audio/...;base64,... or an allowed URL."
    )
    language: str | None = Field(
        None, pattern="^[a-z]{2}$", description='Of the text, such as "en"; else detected.'
    )
    seed: int = Field(0, ge=0, le=LARGEST_SEED, description="The same seed, the same audio.")
    guidance: float | None = Field(
        None, description="Of the flow, 0 to 20; 1 is none. The model's own by default."
    )
    noise_scale: float | None = Field(
        None,
        description="Of the flow's start, 0 to 2: less is clearer. The model's own by default.",
    )
    steps: int | None = Field(None, description="Of the flow; the model's by default.")
    temperature: float = Field(0.0, description="Of the semantic code, 0 to 10; 0: likeliest.")
    top_p: float = Field(1.0, description="Share of the probability drawn from, up to 1.")
    max_seconds: float | None = Field(None, description="Cuts the speech.")

    @property
    def voice_name(self) -> str | None:
        """The voice's name, however it was given."""
        return self.voice.id if isinstance(self.voice, VoiceId) else self.voice

    def options(self) -> dict[str, Any]:
        """What the engine takes beside text and voice."""
        return self.model_dump(include=set(Manner.model_fields) - {"voice", "ref_audio"})


class SpeechRequest(Manner):
    """The body of `POST /v1/audio/speech`."""

    input: str = Field(description="What to say.", min_length=1)
    model: str = Field("voxtral", description="Any; the server speaks with the one it has.")
    response_format: AudioFormat = "mp3"
    stream: bool = Field(False, description="Send the audio while it is made.")
    stream_format: Literal["audio", "sse"] = Field(
        "audio", description="sse: events with audio in base64, while it is made."
    )
    speed: float = Field(1.0, description="1.0 only.")
    instructions: str | None = Field(None, description="None only: the model takes none.")

    @field_validator("speed")
    @classmethod
    def _own_pace(cls, speed: float) -> float:
        if speed != 1.0:
            raise ValueError("must be 1.0: the model sets its own pace")
        return speed

    @field_validator("instructions")
    @classmethod
    def _no_instructions(cls, text: str | None) -> str | None:
        if text:
            raise ValueError("the model takes none; choose a voice that speaks as wanted")
        return text


class ErrorBody(BaseModel):
    """Why a request failed."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorAnswer(BaseModel):
    """The answer to a request that failed."""

    error: ErrorBody


class ModelEntry(BaseModel):
    """A model that speaks."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "voxtral-jax"


class ModelList(BaseModel):
    """All of them: one."""

    object: Literal["list"] = "list"
    data: list[ModelEntry]


class VoiceEntry(BaseModel):
    """A voice, and what is known of it; fields may be empty."""

    name: str
    preset: bool
    language: str
    gender: str
    character: str
    default_for: str


class VoiceList(BaseModel):
    """All voices, presets first."""

    voices: list[VoiceEntry]


class VoiceDeleted(BaseModel):
    """A voice is gone."""

    name: str
    deleted: Literal[True] = True


def speech_body() -> dict[str, Any]:
    """The OpenAPI description of a speech request: JSON, or a form with an upload."""
    as_json = SpeechRequest.model_json_schema()
    as_json.pop("$defs", None)
    as_form = {**as_json, "properties": dict(as_json["properties"])}
    as_form["properties"]["voice"] = {"type": "string"}
    as_form["properties"]["ref_audio"] = {"type": "string", "format": "binary"}
    return {
        "required": True,
        "content": {
            "application/json": {"schema": as_json},
            "multipart/form-data": {"schema": as_form},
        },
    }
