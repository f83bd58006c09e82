"""The part of the log of ``swlottery find`` that is about what the weights do: rows, texts, verdicts."""

from __future__ import annotations

from swlottery.data.evaluation import WIKITEXT2_CONTEXT
from swlottery.find.effects import Ablation
from swlottery.find.events import Planned
from swlottery.find.generation import Generation
from swlottery.find.record import Record
from swlottery.report.logs import verdicts
from swlottery.report.logs.log import Log
from swlottery.report.words import WIDTH, one_line, percent, perplexity

ABLATIONS = {
    "alone": "alone",
    "restored": "alone, spike put back",
    "joint": "together",
    "left in": "together, one left in",
    "control": "control, nearest in |w|",
    "random set": "random set",
    "largest others": "largest other weights",
    "canceller": "canceller's largest weight",
    "dose": "alone, times",
    "row": "its whole output channel",
}
ABLATION = "{:<27}{:<13}{:>8}  {:<21}  {:<11}{}"
GENERATION = "{:<27}{:>16}   {}"


class VerificationLog(Log):
    """Prints the rows as they come, and then what they say together."""

    has_rows = False

    def _plan(self, event: Planned) -> None:
        tokens = event.documents * event.window
        total = event.passes + event.described
        self.has_rows = False
        what = "Do those of --ablate matter, which were not found?" if event.asked else "Do they matter?"
        self.section(f"{what} Weights set to zero, on held-out text")
        self.line(
            f"cost: at most {event.passes:.1f} passes of {tokens:,} tokens for the verdicts, {event.described:.1f} to "
            f"describe: {total * tokens:,.0f} forward tokens\n      (tokens × blocks run ÷ blocks of the model), about "
            f"{total * event.seconds / 60:.0f} min. A row ends as soon as it can change no verdict\n"
            "perplexity: × that of the intact model; ΔNLL: nats a token, paired, with an interval over documents"
        )
        self.start_bar(None, "verification", "row")

    def _ablation(self, row: Ablation) -> None:
        if row.kind == "intact":
            return
        if not self.has_rows:
            self.has_rows = True
            self.line("\n" + ABLATION.format("set to zero", "perplexity", "ΔNLL", "interval", "documents", "weights"))
        effect = f"× {row.perplexity_ratio:.4g}", f"{row.difference:+.4f}", f"[{row.low:+.4f}, {row.high:+.4f}]"
        over = f"{len(row.documents)}, {100 * row.level:g} %"
        what = ABLATIONS[row.kind] + (f" {row.factor:g}" if row.factor else "")
        self.paragraph(ABLATION.format(what, *effect, over, " ".join(map(str, row.coordinates))), 84)
        self.move_bar()

    def _generation(self, one: Generation) -> None:
        if not one.coordinates:
            self.section(f"What it writes: {one.tokens} tokens, the most likely each, behind the first prompts")
            self.line(GENERATION.format("set to zero", "repeated 4-grams", "behind prompt 1"))
        count = len(one.coordinates)
        what = f"{count} together" if count > 1 else "".join(map(str, one.coordinates)) or "nothing"
        text = one_line(one.text)
        room = WIDTH - len(GENERATION.format("", "", ""))
        self.line(
            GENERATION.format(what, percent(one.repeated_4grams), text[: room - 1] + "…" if text[room:] else text)
        )

    def _verdicts(self, record: Record) -> None:
        self.section("Verdicts")
        context, short = record["context"], " (short: not comparable with long context)"
        if record["protocol"] == "wikitext2":
            short = " (not comparable: the protocol's is 2,048)" if context < WIKITEXT2_CONTEXT else ""
        self.paragraph(
            f"intact: perplexity {record['baseline_perplexity']:.2f} a token, {perplexity(record['word_perplexity'])} "
            f"a word, {record['bits_per_byte']:.4f} bits a byte; context {context:,} tokens{short}; "
            f"{record['documents']} documents, protocol {record['protocol']}",
            8,
        )
        used = record["forward_tokens"]
        self.paragraph("used: " + ", ".join(f"{tokens:,} forward tokens ({what})" for what, tokens in used.items()), 6)
        self.line()
        self.lines(verdicts.verdict_table(record))
        self.lines(verdicts.dose_table(record))
        for sentence in verdicts.sentences(record):
            self.paragraph(sentence, 2)
