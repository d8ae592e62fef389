"""What the report says in each language, and the reasons it gives."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Generic, Literal, TypeAlias, TypeVar

from vivace.cli.output import index_name, number
from vivace.tune import choice
from vivace.tune.tuning import Tuning
from vivace.types import Trial

T = TypeVar("T")
Language: TypeAlias = Literal["en", "zh"]


class Bilingual(Generic[T]):
    """One text of the report, in English and Chinese; an instance of `Texts` reads its own."""

    def __init__(self, english: T, chinese: T) -> None:
        self.english = english
        self.chinese = chinese

    def __get__(self, words: Texts, _: type[Texts]) -> T:
        return self.english if words.code == "en" else self.chinese


class Texts:
    """The report's texts in one language. What stands in braces is filled in."""

    def __init__(self, code: str) -> None:
        self.code = code
        """Of the page's `lang` attribute."""

    title = Bilingual("Which index, and why", "选用哪种索引，为什么")
    subtitle = Bilingual("Vivace · tuning report", "Vivace · 调优报告")
    choice = Bilingual(
        "{plan} at effort {effort} finds {recall} of the true {k} nearest, in {cpu} ms of CPU a"
        " query.",
        "{plan}，effort {effort}：真实的 {k} 个最近邻中能找到 {recall}，"
        "每次查询占用 CPU {cpu} 毫秒。",
    )
    choice_exact = Bilingual(
        "{plan}: exact search finds all of the true {k} nearest, in {cpu} ms of CPU a query.",
        "{plan}：精确检索，真实的 {k} 个最近邻全部找到，每次查询占用 CPU {cpu} 毫秒。",
    )
    infeasible = Bilingual("No plan keeps to this objective.", "没有任何方案能满足这个目标。")
    nearest = Bilingual(
        "The nearest is shown below: {plan} at effort {effort}, with a recall of {recall} and"
        " {cpu} ms of CPU a query.",
        "最接近的方案如下：{plan}，effort {effort}，召回率 {recall}，每次查询占用 CPU {cpu} 毫秒。",
    )
    interrupted = Bilingual(
        "The tuning was ended early: this is the best it had found until then.",
        "调优提前结束，这是当时找到的最佳方案。",
    )
    reason_cheapest = Bilingual(
        "Of {kept} plans tried that keep to the objective, this one took the least CPU a query.",
        "试过的方案中有 {kept} 个满足目标，其中这一个每次查询占用的 CPU 最少。",
    )
    reason_next = Bilingual(
        "The next, {plan} at effort {effort}, took {times} times as much.",
        "其次是 {plan}（effort {effort}），CPU 是它的 {times} 倍。",
    )
    reason_alike = Bilingual(
        "{plan} at effort {effort} is as cheap, and takes more room or longer to build.",
        "{plan}（effort {effort}）同样省，但占用更多空间或构建更久。",
    )
    reason_only = Bilingual(
        "It is the only plan tried that keeps to the objective.",
        "试过的方案中只有它满足目标。",
    )
    held_out = Bilingual(
        "Measured on {queries} questions held out from every decision; the fewer the questions,"
        " the wider the interval.",
        "以上数字来自 {queries} 个未参与任何决定的预留问题；问题越少，区间越宽。",
    )
    objective = Bilingual("Objective", "目标")
    objective_recall = Bilingual("recall@{k} ≥ {recall}", "recall@{k} ≥ {recall}")
    objective_p95 = Bilingual("p95 ≤ {p95} ms", "p95 ≤ {p95} 毫秒")
    objective_memory = Bilingual("memory ≤ {memory}", "内存 ≤ {memory}")
    objective_then = Bilingual("then the least CPU a query", "满足之后，CPU 越少越好")
    recall = Bilingual("recall", "召回率")
    p95 = Bilingual("p95", "p95")
    tile_recall = Bilingual("Recall", "召回率")
    tile_time = Bilingual("Median time", "中位耗时")
    tile_cpu = Bilingual("CPU a query", "每次查询 CPU")
    tile_memory = Bilingual("In memory", "占用内存")
    tile_build = Bilingual("To build", "构建用时")
    plot = Bilingual("Recall against cost", "召回率与开销")
    plot_title = Bilingual(
        "Recall against CPU time of each plan tried",
        "试过的每个方案的召回率与 CPU 时间",
    )
    plot_desc = Bilingual(
        "{trials} trials. {plan} has a recall of {recall} at {cpu} ms a query; the floor is"
        " {floor}. The table below has every figure.",
        "共 {trials} 次试验。{plan} 的召回率为 {recall}，每次查询 {cpu} 毫秒；下限为 {floor}。"
        "下表列出全部数字。",
    )
    plot_x = Bilingual(
        "CPU milliseconds a query, one thread (logarithmic)",
        "每次查询的 CPU 毫秒数，单线程（对数刻度）",
    )
    plot_y = Bilingual("recall (stretched towards 1)", "召回率（越接近 1 刻度越宽）")
    plot_chosen = Bilingual("chosen", "选中")
    plot_nearest = Bilingual("nearest", "最接近")
    plot_frontier = Bilingual("nothing tried is cheaper and better", "没有更省且更准的方案")
    plot_note = Bilingual(
        "Up and to the left is better. Bars are 95 % intervals. A line joins the efforts of one"
        " index. The ring is the plan named above, measured on the held-out questions.",
        "越靠左上越好。竖线是 95 % 置信区间，连线是同一索引的不同 effort；圆圈是上面所说的方案，"
        "其数字来自预留问题。",
    )
    floor = Bilingual("floor {recall}", "下限 {recall}")
    table = Bilingual("What was tried", "试过的方案")
    table_note = Bilingual(
        "On the {queries} questions that decided; only the first row is of those held out. Plans"
        " that keep to the objective come first; of its interval the lower end has to reach the"
        " floor.",
        "数字来自用于决定的 {queries} 个问题；只有第一行来自预留问题。满足目标的方案在前；"
        "置信区间的下端须不低于下限。",
    )
    family = Bilingual("Index", "索引")
    effort = Bilingual("effort", "effort")
    interval = Bilingual("recall [95 %]", "召回率 [95 %]")
    cpu_column = Bilingual("CPU ms", "CPU 毫秒")
    time_column = Bilingual("p50 / p95 ms", "p50 / p95 毫秒")
    memory_column = Bilingual("memory + mapped MB", "内存 + 映射 MB")
    mapped = Bilingual("mapped MB", "映射 MB")
    build_column = Bilingual("build s", "构建 秒")
    verdict = Bilingual("Verdict", "结论")
    chosen = Bilingual("chosen", "选中")
    chosen_held = Bilingual("chosen, held out", "选中（预留问题）")
    held_row = Bilingual("nearest, held out", "最接近（预留问题）")
    below = Bilingual("recall may be below the floor", "召回率可能低于下限")
    slow = Bilingual("p95 is over the limit", "p95 超出上限")
    large = Bilingual("memory is over the limit", "内存超出上限")
    dearer = Bilingual("{times} × the CPU", "CPU 是 {times} 倍")
    close = Bilingual("the same CPU", "CPU 相同")
    rejected = Bilingual("What was left out", "未采用的方案")
    rejected_none = Bilingual("Nothing was left out.", "没有排除任何方案。")
    why = Bilingual("Why", "原因")
    pattern = Bilingual("The questions", "问题的特点")
    source = Bilingual("From", "来源")
    sources = Bilingual(
        {
            "log": "the query log",
            "synthetic": "sentences and headings of the collection, as the query log holds too few",
            "given": "questions handed in",
        },
        {
            "log": "查询日志",
            "synthetic": "集合中的句子和标题，因为查询日志还太少",
            "given": "用户给定的问题",
        },
    )
    queries = Bilingual("How many", "数量")
    queries_value = Bilingual(
        "{queries}, a third of them held out", "{queries} 个，其中三分之一预留"
    )
    duplicates = Bilingual("Near-duplicates", "近似重复")
    duplicates_mean = Bilingual(
        {
            "few": "Hardly any question is asked twice; every one costs a search.",
            "some": "Some questions come again nearly word for word; a cache would save a part.",
            "many": "Most questions come again nearly word for word; a cache would save more than"
            " any index.",
        },
        {
            "few": "几乎没有问题重复出现，每次都需要检索。",
            "some": "一部分问题几乎原样重复，缓存可以省去其中一些。",
            "many": "大部分问题几乎原样重复，缓存比任何索引都更省。",
        },
    )
    locality = Bilingual("Locality", "集中程度")
    locality_mean = Bilingual(
        {
            "even": "The answers lie spread over the collection.",
            "some": "Some passages are found far more often than others.",
            "high": "A few passages answer most questions; they stay in the processor's caches.",
        },
        {
            "even": "答案分散在整个集合中。",
            "some": "一些段落被找到的次数远多于其他段落。",
            "high": "少数段落回答了大部分问题，它们会留在处理器缓存里。",
        },
    )
    ground = Bilingual("Data and machine", "数据与机器")
    rows = Bilingual("Vectors", "向量")
    metric = Bilingual("Metric", "度量")
    data = Bilingual("Fingerprint", "指纹")
    spent = Bilingual("Spent", "花费")
    spent_value = Bilingual(
        "{seconds} s, {builds} indexes built", "{seconds} 秒，构建 {builds} 个索引"
    )
    machine_names = Bilingual(
        {
            "cpu": "Processor",
            "cores": "Cores",
            "avx512": "AVX-512",
            "system": "System",
            "python": "Python",
            "faiss": "FAISS",
            "numpy": "NumPy",
        },
        {
            "cpu": "处理器",
            "cores": "核数",
            "avx512": "AVX-512",
            "system": "系统",
            "python": "Python",
            "faiss": "FAISS",
            "numpy": "NumPy",
        },
    )
    again = Bilingual("To repeat it", "重复这次调优")
    footer = Bilingual(
        "Recall is the share of the true nearest vectors that a search finds, by exact search"
        " over the same vectors. Times are of whole searches, one at a time on one thread, with"
        " the candidates taking turns.",
        "召回率是一次检索找到的真实最近邻的比例，以对同一批向量的精确检索为准。"
        "时间是完整检索的时间：单线程，逐个查询，各候选轮流进行。",
    )
    comma = Bilingual(", ", "，")
    stop = Bilingual(".", "。")


ENGLISH: Final = Texts("en")
CHINESE: Final = Texts("zh-CN")
TEXTS: Final[Mapping[Language, Texts]] = {"en": ENGLISH, "zh": CHINESE}

CHINESE_REASONS: Final = tuple(
    (re.compile(pattern), chinese)
    for pattern, chinese in (
        (r"would hold (.+) in memory, where (.+) are allowed", "需要 {0} 内存，只允许 {1}"),
        (r"(\d+) builds had been made", "已经构建了 {0} 个索引，达到上限"),
        (r"the (\S+) s for tuning were over", "{0} 秒的调优时间已用完"),
        (r"building takes about (\S+) s, (\S+) s were left", "构建约需 {0} 秒，只剩 {1} 秒"),
        (
            r"building it takes about (.+) of memory, and the machine has (.+) free",
            "构建约需 {0} 内存，机器只剩 {1}",
        ),
        (
            r"at effort (\d+) takes (\S+) times the CPU of (.+) and has not reached the floor",
            "effort {0} 时 CPU 已是 {2} 的 {1} 倍，召回率仍未达到下限",
        ),
        (
            r"what was tried of its family takes (\S+) times the CPU of the best",
            "同类中试过的方案，CPU 已是最佳方案的 {0} 倍",
        ),
        (r"(\d+) rows are searched as soon without an index", "{0} 个向量不用索引检索也一样快"),
        (r"finds (\S+) \((\S+) to (\S+)\) at most", "召回率最高只有 {0}（{1} 到 {2}）"),
        (
            r"finds (\S+) \((\S+) to (\S+)\) at most: more and other questions would be needed to"
            r" be sure of the floor",
            "召回率最高 {0}（{1} 到 {2}）：要有更多不同的问题，才能确定达到下限",
        ),
    )
)
"""The tuner's reasons for leaving something out, and the same in Chinese."""


def verdict(trial: Trial, tuning: Tuning, words: Texts) -> tuple[str, bool]:
    """The verdict on a trial, and whether it meets the objective."""
    if faults := _faults(trial, tuning, words):
        return words.comma.join(faults), False
    chosen = _decided(tuning)
    times = trial.cpu_ms / chosen.cpu_ms if chosen.cpu_ms else 1.0
    if abs(times - 1) < choice.NOISE:
        return words.close, True
    return words.dearer.format(times=_times(times)), True


def why(tuning: Tuning, words: Texts, infeasible: bool) -> str:
    """The reason of the choice: the tuner's own sentence in English, else made from the figures."""
    if words.code == "en":
        return tuning.reason
    if infeasible:
        faults = _faults(tuning.chosen, tuning, words)
        return words.comma.join(faults) + words.stop if faults else ""
    keeping = choice.ranked(tuning.trials, tuning.objective)
    others = [trial for trial in keeping if trial.plan != tuning.chosen.plan]
    if not others:
        return words.reason_only
    second = min(others, key=lambda trial: trial.cpu_ms)
    times = second.cpu_ms / max(1e-9, _decided(tuning).cpu_ms)
    values = {
        "plan": index_name(second.plan.family, second.plan.params),
        "effort": second.plan.effort,
        "times": _times(times),
    }
    last = words.reason_next if times > 1 + choice.NOISE else words.reason_alike
    return words.reason_cheapest.format(kept=len(keeping)) + last.format(**values)


def left_out(reason: str, words: Texts) -> tuple[str, str]:
    """Why something was left out, and the language of that sentence."""
    if words.code != "en":
        for pattern, chinese in CHINESE_REASONS:
            if found := pattern.fullmatch(reason):
                return chinese.format(*found.groups()), words.code
    return reason, "en"


def _faults(trial: Trial, tuning: Tuning, words: Texts) -> list[str]:
    names = {"recall": words.below, "p95": words.slow, "memory": words.large}
    return [names[name] for name in choice.lacks(trial, tuning.objective)]


def _decided(tuning: Tuning) -> Trial:
    """The choice as measured when it was chosen, not on the held-out questions."""
    return next((t for t in tuning.trials if t.plan == tuning.chosen.plan), tuning.chosen)


def _times(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 3 else number(ratio)


def size(count: int) -> str:
    """Bytes in the unit in which they are a round number, as limits are; else in MB."""
    for unit, of in (("GiB", 2**30), ("MiB", 2**20)):
        if count >= of and count % of == 0:
            return f"{count // of} {unit}"
    return f"{count / 1e6:g} MB"
