"""Which characters made it write this date? A small decoder learns to rewrite dates: it is known what comes from where."""

import argparse
import datetime
from functools import partial

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import funattr as fa

parser = argparse.ArgumentParser(description="Explain a language model that rewrites dates.")
parser.add_argument("--out", default="language_model.png", help="the picture")
out = parser.parse_args().out

torch.manual_seed(0)
dates = [datetime.date(1970, 1, 1) + datetime.timedelta(days) for days in range(0, 36_500, 11)]
texts = [f"{date:%Y-%m-%d}>{date:%d %b %Y}" for date in dates]  # 2026-11-28>28 Nov 2026
letters = ["?", *sorted({letter for text in texts for letter in text})]
data, start = torch.tensor([[letters.index(letter) for letter in text] for text in texts]), texts[0].index(">") + 1
origin = {(0, 1): (8, 9), (3, 4, 5): (5, 6), (7, 8, 9, 10): (0, 1, 2, 3)}  # day, month, year: of the answer, and of the prompt
embed, places, head = nn.Embedding(len(letters), 48), nn.Embedding(data.shape[1], 48), nn.Linear(48, len(letters))
blocks = nn.ModuleList(nn.TransformerEncoderLayer(48, 4, 96, 0.0, "gelu", batch_first=True, norm_first=True) for _ in "12")
mask = nn.Transformer.generate_square_subsequent_mask(data.shape[1])


def model(ids: Tensor) -> Tensor:  # logits [N, P, V]
    value = embed(ids) + places.weight
    for block in blocks:
        value = block(value, src_mask=mask)
    logits: Tensor = head(value)
    return logits


optimizer = torch.optim.AdamW(nn.ModuleList([embed, places, blocks, head]).parameters())
for step in range(350):
    optimizer.param_groups[0]["lr"] = 4e-3 * min(1, 1.2 - step / 290)
    ids = data[torch.randint(len(data), (64,))]
    hidden = torch.where(torch.rand(ids.shape) < 0.1, 0, ids)  # "?", so that it knows what it is not told
    optimizer.zero_grad()
    (-fa.log_likelihood(ids[:, start:])(model(hidden)).mean()).backward()  # a target is a loss, too
    optimizer.step()

ids, every = data[::40], fa.tokens(data[::40, start:])  # against a prompt of "?"
integrated = partial(fa.integrated_gradients, baselines=torch.where(torch.arange(data.shape[1]) < start, 0, ids))
for name, method in (("value times gradient", fa.input_x_gradient), ("integrated gradients", integrated)):
    maps = fa.each_target(fa.sum_channels(method, channel_dim=-1), every)(model, ids, layer=embed)[..., 0]  # [T, N, S]
    most = maps[:, :, : start - 1].argmax(2)
    hits = [torch.isin(most[t], torch.tensor(there)).float() for own, there in origin.items() for t in own]
    print(f"{name}: most is where it comes from for {torch.stack(hits).mean():.0%} of the characters")

figure, text, limit = Figure(figsize=(8.5, 5), layout="compressed"), texts[::40][-1], float(maps[:, -1].abs().max())
drawn = (axes := figure.subplots()).imshow(maps[:, -1], cmap="RdBu_r", vmin=-limit, vmax=limit)
axes.set(xticks=range(len(text)), xticklabels=list(text), yticks=range(len(maps)), yticklabels=list(text[start:]))
axes.set(xlabel="what it had read", ylabel="what it wrote", title="red: made it write this; blue: spoke against it")
figure.colorbar(drawn, ax=axes, label="nats")
figure.savefig(out, dpi=100)
print(f"wrote {out}")
