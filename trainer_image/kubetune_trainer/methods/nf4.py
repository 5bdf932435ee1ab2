"""Quantises experts to 4 bits while they are loaded: bitsandbytes and transformers only do linear layers."""

from typing import Any

from bitsandbytes.nn.modules import Params4bit
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.quantizers import register_quantization_config, register_quantizer
from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer
from transformers.quantizers.quantizers_utils import get_module_from_name

from kubetune_trainer.methods import experts

_NAME = "bitsandbytes_with_experts"
_COMPUTED_PAST = {
    "gemma3n_text": ["prediction_coefs", "correction_coefs"],
    "longcat_flash": ["router.classifier"],
    "mamba": ["dt_proj"],
}
"""By model type, layers whose weights the model uses without calling the layer: they are not quantised."""


@register_quantization_config(_NAME)
class ExpertsToo(BitsAndBytesConfig):
    """Settings of bitsandbytes that apply to experts, too."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.quant_method = _NAME


@register_quantizer(_NAME)
class _Quantizer(Bnb4BitHfQuantizer):
    """transformers' own, which also takes the stacked weights of experts that `experts` computes with.

    Each becomes one block-wise quantised tensor. It is packed once it is loaded, one weight at a time.
    """

    def _process_model_before_weight_loading(
        self, model: PreTrainedModel, device_map: Any, **more: Any
    ) -> None:
        super()._process_model_before_weight_loading(model, device_map, **more)
        for name, parameter in experts.parameters(model).items():
            module, inner = get_module_from_name(model, name)
            if experts.adaptable(module):
                packed = Params4bit(
                    parameter.data,
                    requires_grad=False,
                    compress_statistics=self.quantization_config.bnb_4bit_use_double_quant,
                    quant_type=self.quantization_config.bnb_4bit_quant_type,
                    quant_storage=self.quantization_config.bnb_4bit_quant_storage,
                )
                setattr(module, inner, packed)
                experts.use(module)
                module.source_cls = type(module)  # transformers asks for it, to find transposed layers

    @staticmethod
    def get_modules_to_not_convert(model: PreTrainedModel, *args: Any, **more: Any) -> list[str]:
        usual = Bnb4BitHfQuantizer.get_modules_to_not_convert(model, *args, **more)
        kind = model.config.get_text_config().model_type
        return [*usual, *_COMPUTED_PAST.get(kind, ())]

    def param_needs_quantization(self, model: PreTrainedModel, param_name: str, **more: Any) -> bool:
        module, name = get_module_from_name(model, param_name)
        if isinstance(getattr(module, name, None), Params4bit):
            return True
        needs: bool = super().param_needs_quantization(model, param_name, **more)
        return needs
