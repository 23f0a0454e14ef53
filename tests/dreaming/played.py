"""An actor that plays given commands, whatever it sees."""

from torch import Tensor, nn

from dreaming.agent import Actor
from worldmodel.distributions import ActionMixture


class Played(Actor):
    """Plays commands (N, H, A), one a call, even beyond the bounds."""

    def __init__(self, commands: Tensor) -> None:
        nn.Module.__init__(self)
        self.view, self.actions, self.left = "blind", commands.shape[-1], iter(commands.unbind(1))

    def forward(self, scaled: Tensor, estimate: Tensor, explore: bool = False) -> ActionMixture:
        return Command(next(self.left))


class Command(ActionMixture):
    """Nothing to choose."""

    def __init__(self, command: Tensor) -> None:
        actions = command.shape[-1]
        super().__init__(command.new_zeros(len(command), 1 + 2 * actions), actions, min_std=0.0, max_std=1.0)
        self.command = command

    def mode(self) -> Tensor:
        return self.command
