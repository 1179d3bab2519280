"""What the calls that bring weights over a process group must say, field by field (sglang 0.5.23, io_struct.py)."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

DTypeName = Literal["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
"""Those that Hugging Face folders have."""


class _Body(BaseModel):
    """Types are not converted; fields that SGLang knows besides are passed over."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class GroupBody(_Body):
    """Of a call to join a group."""

    master_address: str
    master_port: int = Field(ge=1, le=65535)
    rank_offset: int = Field(ge=0, lt=2**31)
    world_size: int = Field(ge=1, lt=2**31)
    group_name: str = "weight_update_group"
    backend: str = "nccl"


class LeaveBody(_Body):
    """Of a call to leave a group."""

    group_name: str = "weight_update_group"


class BucketBody(_Body):
    """Of a call that announces one bucket of weights: tensors in the order in which they are broadcast."""

    names: list[str]
    dtypes: list[DTypeName]
    shapes: list[list[int]]
    group_name: str = "weight_update_group"
    load_format: str | None = None
    weight_version: str | None = None
    flush_cache: bool = True

    @model_validator(mode="after")
    def _has_one_of_each(self) -> Self:
        if not len(self.names) == len(self.dtypes) == len(self.shapes):
            raise ValueError(f"{len(self.names)} names, {len(self.dtypes)} dtypes, {len(self.shapes)} shapes")
        return self
