"""What the report says, in each language. A text that one of them lacks is a type error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

Language: TypeAlias = Literal["en", "zh"]


@dataclass(frozen=True, slots=True)
class Texts:
    """Of one language. What stands in braces is filled in."""

    code: str
    title: str
    subtitle: str
    choice: str
    choice_exact: str
    infeasible: str
    nearest: str
    interrupted: str
    reason_cheapest: str
    reason_next: str
    reason_alike: str
    reason_only: str
    held_out: str
    objective: str
    objective_recall: str
    objective_p95: str
    objective_memory: str
    objective_then: str
    recall: str
    p95: str
    tile_recall: str
    tile_time: str
    tile_cpu: str
    tile_memory: str
    tile_build: str
    plot: str
    plot_title: str
    plot_desc: str
    plot_x: str
    plot_y: str
    plot_chosen: str
    plot_nearest: str
    plot_frontier: str
    plot_note: str
    floor: str
    table: str
    table_note: str
    family: str
    effort: str
    interval: str
    cpu_column: str
    time_column: str
    memory_column: str
    mapped: str
    build_column: str
    verdict: str
    chosen: str
    chosen_held: str
    held_row: str
    below: str
    slow: str
    large: str
    dearer: str
    close: str
    rejected: str
    rejected_none: str
    why: str
    pattern: str
    source: str
    sources: Mapping[str, str]
    queries: str
    queries_value: str
    duplicates: str
    duplicates_mean: Mapping[str, str]
    locality: str
    locality_mean: Mapping[str, str]
    ground: str
    rows: str
    metric: str
    data: str
    spent: str
    spent_value: str
    machine_names: Mapping[str, str]
    again: str
    footer: str
    comma: str
    stop: str


ENGLISH = Texts(
    code="en",
    title="Which index, and why",
    subtitle="Vivace · tuning report",
    choice="{plan} at effort {effort} finds {recall} of the true {k} nearest, in {cpu} ms of CPU a"
    " query.",
    choice_exact="{plan}: exact search finds all of the true {k} nearest, in {cpu} ms of CPU a"
    " query.",
    infeasible="No plan keeps to this objective.",
    nearest="The nearest is shown below: {plan} at effort {effort}, with a recall of {recall} and"
    " {cpu} ms of CPU a query.",
    interrupted="The tuning was ended early: this is the best it had found until then.",
    reason_cheapest="Of {kept} plans tried that keep to the objective, this one took the least CPU"
    " a query.",
    reason_next="The next, {plan} at effort {effort}, took {times} times as much.",
    reason_alike="{plan} at effort {effort} is as cheap, and takes more room or longer to build.",
    reason_only="It is the only plan tried that keeps to the objective.",
    held_out="Measured on {queries} questions held out from every decision; the fewer the"
    " questions, the wider the interval.",
    objective="Objective",
    objective_recall="recall@{k} ≥ {recall}",
    objective_p95="p95 ≤ {p95} ms",
    objective_memory="memory ≤ {memory}",
    objective_then="then the least CPU a query",
    recall="recall",
    p95="p95",
    tile_recall="Recall",
    tile_time="Median time",
    tile_cpu="CPU a query",
    tile_memory="In memory",
    tile_build="To build",
    plot="Recall against cost",
    plot_title="Recall against CPU time of each plan tried",
    plot_desc="{trials} trials. {plan} has a recall of {recall} at {cpu} ms a query;"
    " the floor is {floor}. The table below has every figure.",
    plot_x="CPU milliseconds a query, one thread (logarithmic)",
    plot_y="recall (stretched towards 1)",
    plot_chosen="chosen",
    plot_nearest="nearest",
    plot_frontier="nothing tried is cheaper and better",
    plot_note="Up and to the left is better. Bars are 95 % intervals. A line joins the efforts of"
    " one index. The ring is the plan named above, measured on the held-out questions.",
    floor="floor {recall}",
    table="What was tried",
    table_note="On the {queries} questions that decided; only the first row is of those held out."
    " Plans that keep to the objective come first; of its interval the lower end has to reach the"
    " floor.",
    family="Index",
    effort="effort",
    interval="recall [95 %]",
    cpu_column="CPU ms",
    time_column="p50 / p95 ms",
    memory_column="memory + mapped MB",
    mapped="mapped MB",
    build_column="build s",
    verdict="Verdict",
    chosen="chosen",
    chosen_held="chosen, held out",
    held_row="nearest, held out",
    below="recall may be below the floor",
    slow="p95 is over the limit",
    large="memory is over the limit",
    dearer="{times} × the CPU",
    close="the same CPU",
    rejected="What was left out",
    rejected_none="Nothing was left out.",
    why="Why",
    pattern="The questions",
    source="From",
    sources={
        "log": "the query log",
        "synthetic": "sentences and headings of the collection, as the query log holds too few",
        "given": "questions handed in",
    },
    queries="How many",
    queries_value="{queries}, a third of them held out",
    duplicates="Near-duplicates",
    duplicates_mean={
        "few": "Hardly any question is asked twice; every one costs a search.",
        "some": "Some questions come again nearly word for word; a cache would save a part.",
        "many": "Most questions come again nearly word for word; a cache would save more than any"
        " index.",
    },
    locality="Locality",
    locality_mean={
        "even": "The answers lie spread over the collection.",
        "some": "Some passages are found far more often than others.",
        "high": "A few passages answer most questions; they stay in the processor's caches.",
    },
    ground="Data and machine",
    rows="Vectors",
    metric="Metric",
    data="Fingerprint",
    spent="Spent",
    spent_value="{seconds} s, {builds} indexes built",
    machine_names={
        "cpu": "Processor",
        "cores": "Cores",
        "avx512": "AVX-512",
        "system": "System",
        "python": "Python",
        "faiss": "FAISS",
        "numpy": "NumPy",
    },
    again="To repeat it",
    footer="Recall is the share of the true nearest vectors that a search finds, by exact search"
    " over the same vectors. Times are of whole searches, one at a time on one thread, with the"
    " candidates taking turns.",
    comma=", ",
    stop=".",
)

CHINESE = Texts(
    code="zh-CN",
    title="选用哪种索引，为什么",
    subtitle="Vivace · 调优报告",
    choice="{plan}，effort {effort}：真实的 {k} 个最近邻中能找到 {recall}，"
    "每次查询占用 CPU {cpu} 毫秒。",
    choice_exact="{plan}：精确检索，真实的 {k} 个最近邻全部找到，每次查询占用 CPU {cpu} 毫秒。",
    infeasible="没有任何方案能满足这个目标。",
    nearest="最接近的方案如下：{plan}，effort {effort}，召回率 {recall}，"
    "每次查询占用 CPU {cpu} 毫秒。",
    interrupted="调优提前结束，这是当时找到的最佳方案。",
    reason_cheapest="试过的方案中有 {kept} 个满足目标，其中这一个每次查询占用的 CPU 最少。",
    reason_next="其次是 {plan}（effort {effort}），CPU 是它的 {times} 倍。",
    reason_alike="{plan}（effort {effort}）同样省，但占用更多空间或构建更久。",
    reason_only="试过的方案中只有它满足目标。",
    held_out="以上数字来自 {queries} 个未参与任何决定的预留问题；问题越少，区间越宽。",
    objective="目标",
    objective_recall="recall@{k} ≥ {recall}",
    objective_p95="p95 ≤ {p95} 毫秒",
    objective_memory="内存 ≤ {memory}",
    objective_then="满足之后，CPU 越少越好",
    recall="召回率",
    p95="p95",
    tile_recall="召回率",
    tile_time="中位耗时",
    tile_cpu="每次查询 CPU",
    tile_memory="占用内存",
    tile_build="构建用时",
    plot="召回率与开销",
    plot_title="试过的每个方案的召回率与 CPU 时间",
    plot_desc="共 {trials} 次试验。{plan} 的召回率为 {recall}，每次查询 {cpu} 毫秒；"
    "下限为 {floor}。下表列出全部数字。",
    plot_x="每次查询的 CPU 毫秒数，单线程（对数刻度）",
    plot_y="召回率（越接近 1 刻度越宽）",
    plot_chosen="选中",
    plot_nearest="最接近",
    plot_frontier="没有更省且更准的方案",
    plot_note="越靠左上越好。竖线是 95 % 置信区间，连线是同一索引的不同 effort；"
    "圆圈是上面所说的方案，其数字来自预留问题。",
    floor="下限 {recall}",
    table="试过的方案",
    table_note="数字来自用于决定的 {queries} 个问题；只有第一行来自预留问题。"
    "满足目标的方案在前；置信区间的下端须不低于下限。",
    family="索引",
    effort="effort",
    interval="召回率 [95 %]",
    cpu_column="CPU 毫秒",
    time_column="p50 / p95 毫秒",
    memory_column="内存 + 映射 MB",
    mapped="映射 MB",
    build_column="构建 秒",
    verdict="结论",
    chosen="选中",
    chosen_held="选中（预留问题）",
    held_row="最接近（预留问题）",
    below="召回率可能低于下限",
    slow="p95 超出上限",
    large="内存超出上限",
    dearer="CPU 是 {times} 倍",
    close="CPU 相同",
    rejected="未采用的方案",
    rejected_none="没有排除任何方案。",
    why="原因",
    pattern="问题的特点",
    source="来源",
    sources={
        "log": "查询日志",
        "synthetic": "集合中的句子和标题，因为查询日志还太少",
        "given": "用户给定的问题",
    },
    queries="数量",
    queries_value="{queries} 个，其中三分之一预留",
    duplicates="近似重复",
    duplicates_mean={
        "few": "几乎没有问题重复出现，每次都需要检索。",
        "some": "一部分问题几乎原样重复，缓存可以省去其中一些。",
        "many": "大部分问题几乎原样重复，缓存比任何索引都更省。",
    },
    locality="集中程度",
    locality_mean={
        "even": "答案分散在整个集合中。",
        "some": "一些段落被找到的次数远多于其他段落。",
        "high": "少数段落回答了大部分问题，它们会留在处理器缓存里。",
    },
    ground="数据与机器",
    rows="向量",
    metric="度量",
    data="指纹",
    spent="花费",
    spent_value="{seconds} 秒，构建 {builds} 个索引",
    machine_names={
        "cpu": "处理器",
        "cores": "核数",
        "avx512": "AVX-512",
        "system": "系统",
        "python": "Python",
        "faiss": "FAISS",
        "numpy": "NumPy",
    },
    again="重复这次调优",
    footer="召回率是一次检索找到的真实最近邻的比例，以对同一批向量的精确检索为准。"
    "时间是完整检索的时间：单线程，逐个查询，各候选轮流进行。",
    comma="，",
    stop="。",
)

TEXTS: Mapping[Language, Texts] = {"en": ENGLISH, "zh": CHINESE}


def described(family: str, params: Mapping[str, int]) -> str:
    """A family with its parameters, in a few words."""
    given = ", ".join(f"{name} {value}" for name, value in sorted(params.items()))
    return f"{family} ({given})" if given else family


def size(count: int) -> str:
    """Bytes in the unit in which they are a round number, as limits are; else in MB."""
    for unit, of in (("GiB", 2**30), ("MiB", 2**20)):
        if count >= of and count % of == 0:
            return f"{count // of} {unit}"
    return f"{count / 1e6:g} MB"
