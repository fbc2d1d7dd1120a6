"""Which words speak for which topic? Integrated gradients at the embedding of a small transformer.

It learns which of three data sets eight words of their descriptions are about. Explained is a padded batch, with its mask bound
to the model: one number per word, summed over channels. They sum to what a text's score gains over that of empty words.
"""

import argparse
import re
from functools import partial

import torch
from sklearn.datasets import load_breast_cancer, load_iris, load_wine
from torch import Tensor, nn

import funattr as fa
from funattr import viz

TOPICS = {"flowers": load_iris, "wines": load_wine, "tumours": load_breast_cancer}
TEXTS = ["the length of the sepal of an iris", "alcohol and malic acid of wines", "the image of a mass"]
TEXTS += 3 * ["alcohol of the wine and width of the petal and radius of the mass"]

parser = argparse.ArgumentParser(description="Attribute topics to words.")
parser.add_argument("--out", default="text.png", help="the picture")
out = parser.parse_args().out

torch.manual_seed(0)
words = [re.findall("[a-z]{3,}", load().DESCR.lower()) for load in TOPICS.values()]
pieces = [(text[i : i + 8], topic) for topic, text in enumerate(words) for i in range(0, len(text) - 7, 8)]
ids_of = {word: i for i, word in enumerate(["", "?", *sorted({word for text in words for word in text})])}
embedding, head = nn.Embedding(len(ids_of), 32, padding_idx=0), nn.Linear(32, len(TOPICS))
block = nn.TransformerEncoderLayer(32, 4, 32, dropout=0.0, activation="gelu", batch_first=True)


def model(ids: Tensor, mask: Tensor) -> Tensor:
    value: Tensor = head(block(embedding(ids), src_key_padding_mask=~mask))
    return (value * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


ids, topics = torch.tensor([[ids_of[word] for word in text] for text, _ in pieces]), torch.tensor([t for _, t in pieces])
optimizer = torch.optim.AdamW(nn.ModuleList([embedding, block, head]).parameters(), lr=1e-2, weight_decay=2)
for _ in range(40):
    some = torch.where(torch.rand(ids.shape) < 0.3, 1, ids)  # a third is unknown, so that every word has to count
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(some, some > 0), topics).backward()
    optimizer.step()

texts, target = [text.split() for text in TEXTS], [0, 1, 2, 0, 1, 2]
x = nn.utils.rnn.pad_sequence([torch.tensor([ids_of.get(word, 1) for word in text]) for text in texts], batch_first=True)
masked = partial(model, mask=x > 0)
found = fa.integrated_gradients(masked, x, layer=embedding, target=target).sum(2)
labels = [list(TOPICS)[t] for t in target]
for label, text, value in zip(labels, texts, found):
    print(f"{label}: most for it is {text[value.argmax()]!r} in {' '.join(text)!r}")
print(f"sums miss the gain by at most {fa.convergence_delta(found, masked, x, target=target).abs().max():.0e}")
viz.text(texts, [value[: len(text)] for text, value in zip(texts, found)], titles=labels, out=out)
print(f"wrote {out}")
