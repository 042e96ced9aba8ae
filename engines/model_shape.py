"""The sizes of a decoder that memory and disk depend on, from its config.json alone: no weight is read."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from runtime.errors import InputError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class ModelShape:
    """The numbers of a decoder's config.json that memory depends on, and its exact number of `parameters`."""

    parameters: int
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    largest_module: int  # parameters
    qk_norm: bool  # queries and keys are normalised per head (Qwen3)
    tied: bool  # input and output embeddings are one matrix

    @property
    def kv_bytes(self) -> int:
        """Keys and values of one token in 16 bits."""
        return 2 * 2 * self.layers * self.kv_heads * self.head_dim


def read_shape(model: str, key: str = "model", with_head: bool = True) -> ModelShape:
    """Architecture and exact parameter count of a model folder or Hub name, built on the meta device.

    key: named in the message; with_head: whether the output layer counts. Raises `InputError` if the config.json is
    out of reach or describes no model that the plan knows.
    """
    try:
        network = empty_model(model, with_head)
        return shape_of(network, network.config.get_text_config())
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(
            f"key '{key}' has the value '{model}': nothing can be planned without its architecture "
            f"({str(error).splitlines()[0]}); download the model first, or give its folder"
        ) from None


def empty_model(model: str, with_head: bool = True) -> "PreTrainedModel":
    """The model without weights, from its config.json."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(model)
    with torch.device("meta"):
        return (AutoModelForCausalLM if with_head else AutoModel).from_config(config)


def shape_of(network: "torch.nn.Module", config: "PreTrainedConfig") -> ModelShape:
    """`config` is that of the text decoder; tied parameters count once."""
    heads = config.num_attention_heads
    modules = (sum(p.numel() for p in module.parameters(recurse=False)) for module in network.modules())
    return ModelShape(
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        vocabulary=config.vocab_size,
        largest_module=max(modules),
        qk_norm=any(name.endswith("q_norm.weight") for name, _ in network.named_parameters()),
        tied=bool(config.tie_word_embeddings),
    )
