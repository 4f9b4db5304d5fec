"""What all recipes have in common that predict one class for each record."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from workers.unlearn.task import Examples, mean_nll, share_right


class OnePrediction(ABC):
    """One class for each record; examples hold it as y (n,) int64."""

    @abstractmethod
    def log_distribution(self, model: nn.Module, examples: Examples) -> Tensor:
        """Log probabilities of the classes, as the one prediction per record: (n, 1, classes)."""

    def targets(self, examples: Examples) -> Tensor:
        """The labels: (n, 1)."""
        return examples["y"].unsqueeze(1)

    def losses(self, model: nn.Module, examples: Examples) -> Tensor:
        """Cross-entropy of each record in nats: (n,)."""
        return mean_nll(self.log_distribution(model, examples), self.targets(examples))

    def accuracies(self, model: nn.Module, examples: Examples) -> Tensor:
        """1 where the most probable class is the label, else 0: (n,)."""
        return share_right(self.log_distribution(model, examples), self.targets(examples))
