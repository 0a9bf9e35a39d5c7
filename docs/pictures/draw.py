# SPDX-License-Identifier: Apache-2.0
"""The two drawings of the docs: python docs/pictures/draw.py writes block.svg and dataflow.svg."""

from html import escape
from pathlib import Path

INK, LINE, PAPER = "#1f2933", "#52606d", "#ffffff"
WORK, STATE, DISK, FRAME = "#dbeafe", "#fde8c8", "#e3f1e0", "#f5f7fa"
"""What computes, what is remembered, what lies on disk, what surrounds others."""


class Drawing:
    """Boxes, lines and words on a white sheet, in pixels."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.size, self.title = (width, height), title
        self.shapes: list[str] = []

    def box(self, x, y, width, height, *lines: str, fill: str = WORK, size: int = 14) -> None:
        self.shapes.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="7" fill="{fill}" '
            f'stroke="{LINE}" stroke-width="1.2"/>'
        )
        top = y + height / 2 - (len(lines) - 1) * (size + 4) / 2
        for number, line in enumerate(lines):
            weight = "600" if number == 0 and len(lines) > 1 else "400"
            self.words(x + width / 2, top + number * (size + 4), line, size=size, weight=weight)

    def frame(self, x, y, width, height, label: str, indent: int = 14) -> None:
        self.shapes.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="12" fill="{FRAME}" '
            f'stroke="#9aa5b1" stroke-width="1.2" stroke-dasharray="5 4"/>'
        )
        self.words(x + indent, y + 20, label, size=14, anchor="start", weight="600")

    def words(self, x, y, text, *, size=14, anchor="middle", weight="400", colour=INK) -> None:
        self.shapes.append(
            f'<text x="{x}" y="{y}" font-size="{size}" font-weight="{weight}" fill="{colour}" '
            f'text-anchor="{anchor}" dominant-baseline="central">{escape(text)}</text>'
        )

    def arrow(self, *points: tuple[float, float], dashed: bool = False) -> None:
        path = " ".join(f"{'L' if i else 'M'}{x} {y}" for i, (x, y) in enumerate(points))
        dash = ' stroke-dasharray="4 3"' if dashed else ""
        self.shapes.append(
            f'<path d="{path}" fill="none" stroke="{LINE}" stroke-width="1.6" '
            f'marker-end="url(#tip)"{dash}/>'
        )

    def plus(self, x, y, sign: str = "+") -> None:
        self.shapes.append(
            f'<circle cx="{x}" cy="{y}" r="11" fill="{PAPER}" stroke="{LINE}" stroke-width="1.4"/>'
        )
        self.words(x, y, sign, size=16)

    def svg(self) -> str:
        width, height = self.size
        body = "\n".join(self.shapes)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" role="img" aria-label="{escape(self.title)}" '
            f'font-family="Helvetica, Arial, sans-serif">\n<title>{escape(self.title)}</title>\n'
            f'<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" '
            f'markerHeight="7" orient="auto-start-reverse"><path d="M0 0 L10 5 L0 10 z" '
            f'fill="{LINE}"/></marker></defs>\n'
            f'<rect width="{width}" height="{height}" rx="14" fill="{PAPER}"/>\n{body}\n</svg>\n'
        )


def block() -> Drawing:
    """The model, one block, the two mixers, and what each remembers."""
    d = Drawing(1000, 520, "A Griffin block and its state of fixed size")
    d.frame(16, 16, 170, 488, "the model")
    d.box(46, 432, 110, 38, "tokens", fill=PAPER)
    d.box(46, 360, 110, 38, "embedding")
    for shift in (12, 6, 0):
        d.box(46 + shift, 232 - shift, 98, 88, *(("block", "x 26") if shift == 0 else ()))
    d.box(46, 142, 110, 38, "RMS norm")
    d.box(46, 62, 110, 38, "logits", fill=PAPER)
    for start, end in ((432, 400), (360, 322), (218, 182), (142, 102)):
        d.arrow((101, start), (101, end))

    d.frame(206, 16, 214, 488, "a block")
    for y, label in ((412, "RMS norm"), (334, "mixer"), (196, "RMS norm"), (118, "gated MLP")):
        d.box(240, y, 106, 40, label)
    d.arrow((293, 492), (293, 454))
    d.arrow((293, 412), (293, 376))
    d.arrow((293, 334), (293, 293))
    d.plus(293, 281)
    d.arrow((293, 474), (386, 474), (386, 281), (306, 281))
    d.arrow((293, 269), (293, 238))
    d.arrow((293, 196), (293, 160))
    d.arrow((293, 118), (293, 83))
    d.plus(293, 71)
    d.arrow((293, 254), (386, 254), (386, 71), (306, 71))
    d.arrow((293, 59), (293, 36))
    d.arrow((144, 276), (206, 276), dashed=True)

    d.frame(440, 16, 544, 236, "recurrent mixer: two blocks of three in Griffin, all in Hawk")
    d.box(464, 196, 100, 36, "linear_x")
    d.box(464, 128, 100, 40, "conv, 4 taps")
    d.box(464, 68, 100, 40, "RG-LRU")
    d.box(610, 196, 100, 36, "linear_y")
    d.box(610, 128, 100, 40, "GELU")
    d.arrow((514, 196), (514, 170))
    d.arrow((514, 128), (514, 110))
    d.arrow((660, 196), (660, 170))
    d.arrow((564, 88), (647, 88))
    d.arrow((660, 128), (660, 101))
    d.plus(660, 88, "×")
    d.arrow((672, 88), (712, 88))
    d.box(714, 68, 96, 40, "linear_out")
    d.box(836, 66, 132, 46, "h: one value", "a channel", fill=STATE, size=13)
    d.box(836, 124, 132, 48, "last 3 inputs of", "the convolution", fill=STATE, size=13)
    d.arrow((902, 66), (902, 53), (514, 53), (514, 67), dashed=True)
    d.arrow((836, 148), (780, 148), (780, 182), (590, 182), (590, 148), (566, 148), dashed=True)

    d.frame(440, 268, 544, 116, "attention mixer: one block of three in Griffin")
    d.box(464, 312, 100, 48, "q, k, v", "rotary", size=13)
    d.box(610, 312, 130, 48, "local attention", "over 2,048 tokens", size=13)
    d.arrow((564, 336), (608, 336))
    d.box(826, 306, 142, 60, "ring of the last", "2,048 keys", "and values", fill=STATE, size=13)
    d.arrow((826, 336), (742, 336), dashed=True)

    d.frame(440, 400, 544, 104, "the state: all that is remembered, however long the text")
    d.words(
        456,
        444,
        "RecurrentGemma-2B, bfloat16: 17 MB at 10 tokens or at 10 million.",
        anchor="start",
    )
    d.words(
        456,
        474,
        "A cache of keys and values of all its layers: 266 GB at 10 million.",
        anchor="start",
    )
    return d


def dataflow() -> Drawing:
    """From text to a checkpoint, to answers and to numbers."""
    d = Drawing(1000, 470, "From text to a checkpoint, to answers and to numbers")
    d.frame(16, 16, 470, 206, "training/data: documents to batches")
    d.box(36, 56, 132, 60, "text, JSONL,", "Parquet, TFDS", "chats", fill=DISK, size=13)
    d.box(36, 146, 132, 52, "token shards", "griffin data tokenize", fill=DISK, size=12)
    d.box(200, 100, 116, 56, "documents", "ids, learned", size=13)
    d.box(346, 100, 120, 56, "packing", "rows, positions", size=13)
    d.arrow((168, 86), (198, 116))
    d.arrow((168, 172), (198, 142))
    d.arrow((102, 116), (102, 144), dashed=True)
    d.arrow((316, 128), (344, 128))

    d.frame(16, 248, 470, 206, "training: to a checkpoint", indent=206)
    d.box(36, 300, 150, 56, "step", "loss and gradients", size=13)
    d.box(226, 300, 110, 56, "loop", "logs, saves", size=13)
    d.box(346, 388, 124, 48, "runs/NAME", fill=DISK)
    d.arrow((406, 156), (406, 234), (111, 234), (111, 298))
    d.arrow((186, 328), (224, 328))
    d.arrow((281, 356), (281, 412), (344, 412))
    d.arrow((344, 424), (60, 424), (60, 358), dashed=True)
    d.words(190, 438, "resumed bit for bit", size=12)

    d.frame(514, 16, 470, 170, "recurrentgemma: one pure function")
    d.box(540, 66, 190, 60, "Griffin", "tokens, state → logits, state", size=13)
    d.box(790, 66, 170, 60, "state", "of fixed size", fill=STATE, size=13)
    d.arrow((730, 84), (788, 84))
    d.arrow((790, 108), (732, 108))
    d.words(540, 154, "on kernels: scan, RG-LRU, local attention", size=13, anchor="start")
    d.arrow((186, 312), (208, 312), (208, 240), (500, 240), (500, 96), (538, 96), dashed=True)

    d.frame(514, 212, 470, 110, "checkpoints: from and to disk")
    d.box(540, 250, 120, 52, "ours", fill=DISK)
    d.box(680, 250, 130, 52, "Hugging Face", "PEFT", fill=DISK, size=13)
    d.box(830, 250, 130, 52, "DeepMind", "Flax, PyTorch", fill=DISK, size=13)
    d.arrow((470, 412), (492, 412), (492, 276), (538, 276))
    d.arrow((880, 212), (880, 188))

    d.frame(514, 348, 470, 106, "what people do with it")
    for x, lines in (
        (530, ("generation", "text, chats")),
        (682, ("serving", "OpenAI's API")),
        (834, ("eval", "bits per byte")),
    ):
        d.box(x, 386, 134, 50, *lines, size=13)
    d.arrow((749, 322), (749, 346))
    return d


if __name__ == "__main__":
    for name, drawing in (("block", block()), ("dataflow", dataflow())):
        Path(__file__).with_name(f"{name}.svg").write_text(drawing.svg(), encoding="utf-8")
