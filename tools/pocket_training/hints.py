"""What shortens the training of small models: a loss in the middle of the decoder.

Which of the visual tokens show what is asked for? To find them by their contents is what a model learns last, and
all else waits for it. Nothing is hinted of where they are: a model that was told so early learns places from its
neighbours in the image, and no longer from position ids.
"""

from torch import Tensor, nn

SCALE = 8.0  # of cosines


class Hints(nn.Module):
    """Reads the states in the middle of the decoder; it is no part of the model."""

    def __init__(self, width: int):
        super().__init__()
        self.norm, self.key, self.query = nn.LayerNorm(width), nn.Linear(width, width), nn.Linear(width, width)

    def forward(
        self, visual: Tensor, text: Tensor, asked: Tensor, evidence: Tensor, cell: Tensor | None = None
    ) -> Tensor:
        """Cross entropy of the tokens that a question is about.

        visual [B, N, D], text [B, T, D]. asked long [2, Q]: row and column of the last token of each question;
        evidence bool [Q, patches]: which of them show what it is about. cell long [B, N]: which patches the tokens
        are; None = all of them, in order.
        """
        row, column = asked
        visual, text = self.norm(visual.float()), self.norm(text.float())
        query = nn.functional.normalize(self.query(text[row, column]), dim=-1)
        key = nn.functional.normalize(self.key(visual), dim=-1)[row]
        shown = (evidence if cell is None else evidence.gather(1, cell[row])).float()
        target = shown / shown.sum(1, keepdim=True).clamp(min=1)  # none where all that show it were dropped
        scores = ((key @ query[:, :, None])[..., 0] * SCALE).log_softmax(-1)
        return -(target * scores).sum(-1).mean()
