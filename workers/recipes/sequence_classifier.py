"""Recipe `sequence_classifier`: a transformer that puts a text into a class.

All weights, or LoRA adapters with the head, which is new and would otherwise stay random.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from typing_extensions import override

from lethe.recipes.sequence_classifier import SequenceClassifierParams
from lethe.recipes.training import TrainingParams
from workers.recipes.columns import label
from workers.recipes.one_prediction import OnePrediction
from workers.recipes.tokens import Tokenizer
from workers.recipes.transformer import adapt, encode_text, load, tokenizer_of, trim
from workers.unlearn.task import Examples


@dataclass(frozen=True)
class SequenceClassifier(OnePrediction):
    """The classifier of texts as a task.

    Examples hold tokens (n, max_tokens), length (n,), the number of tokens that count, and y (n,),
    all int64.
    """

    params: SequenceClassifierParams
    tokenizer: Tokenizer

    @property
    def training(self) -> TrainingParams:
        """How the model is trained."""
        return self.params.training

    def build(self, seed: int) -> nn.Module:
        """Make the model: random weights, the head's and the adapters' are drawn from `seed`.

        Raises:
            FileNotFoundError: the checkpoint's folder is missing.
            ValueError: the checkpoint's content is another than registered, or it is a classifier
                of another number of classes, or the model is too small for the tokenizer or for
                `max_tokens`.
        """
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            model = load(
                AutoModelForSequenceClassification,
                self.params,
                self.tokenizer,
                num_labels=self.params.classes,
            )
            if self.params.lora is not None:
                head = _head(model)
                adapt(model, self.params.lora)
                for parameter in head:
                    parameter.requires_grad_(True)
        # Decoders read the last token that is no padding, and know it by the configuration.
        model.config.pad_token_id = self.tokenizer.pad
        return model

    def encode(self, rows: Sequence[Mapping[str, object]]) -> Examples:
        """Turn rows into padded tokens and labels; longer texts are cut.

        Raises:
            ValueError: the text column holds no text, or the label column no class; names the
                column only.
        """
        labels = [label(row, self.params.label, self.params.classes) for row in rows]
        return {
            **encode_text(rows, self.params, self.tokenizer),
            "y": torch.tensor(labels, dtype=torch.int64),
        }

    @override
    def log_distribution(self, model: nn.Module, examples: Examples) -> Tensor:
        """Log probabilities of the classes, as the one prediction per record: (n, 1, classes)."""
        tokens, counted = trim(examples)
        logits: Tensor = model(input_ids=tokens, attention_mask=counted).logits
        return logits.float().log_softmax(-1).unsqueeze(1)


def make_sequence_classifier(params: SequenceClassifierParams) -> SequenceClassifier:
    """Bind the recipe to its parameters.

    Raises:
        FileNotFoundError: the tokenizer's folder is missing.
        ValueError: the tokenizer's content is another than registered.
    """
    return SequenceClassifier(params, tokenizer_of(params))


def _head(model: PreTrainedModel) -> list[nn.Parameter]:
    """What stands on the encoder."""
    encoder = f"{model.base_model_prefix}."
    return [weight for name, weight in model.named_parameters() if not name.startswith(encoder)]
