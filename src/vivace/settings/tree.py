"""Every setting with its type, its default and what it means."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta

from vivace.settings.masking import SettingsSection, hidden


def about(description: str, **bounds: Any) -> Meta:
    """What a setting means, and its bounds (`ge`, `gt`, `le`, `lt`)."""
    return Meta(description=description, **bounds)


class Embed(SettingsSection, frozen=True):
    model: Annotated[
        str,
        about(
            "`builtin` (all-MiniLM-L6-v2, English) or `given:DIM` "
            "(every vector is passed in; questions without one use keywords alone), "
            "`openai:NAME@URL` (several servers of one model: `URL,URL*2`, behind the `*` a "
            "weight; `#DIM` at the end spares asking a server at the start), "
            "or `fastembed:NAME-or-folder` (extra `[models]`)"
        ),
    ] = "builtin"
    workers: Annotated[
        int, about("embedding threads; 0 is one a core of this machine's quota", ge=0)
    ] = 0
    batch: Annotated[int, about("most texts in one forward pass", ge=1, le=64)] = 8
    tokens: Annotated[
        Literal["signs", "pooled", "off"],
        about(
            "what is stored of each token's vector, for `search.rerank`: `signs` "
            "(48 bytes a token of the built-in model, some 7.5 KB a chunk), `pooled` (of two "
            "neighbours' mean, half of it) or `off`; what is stored already changes with "
            "`vivace rebuild --reembed`"
        ),
    ] = "signs"


class Remote(SettingsSection, frozen=True):
    """Settings of embedders named `openai:NAME@URL`."""

    api_key: Annotated[str, hidden("sent as a bearer token")] = ""
    batch: Annotated[int, about("most texts in one request", ge=1, le=2048)] = 64
    concurrency: Annotated[int, about("most requests at once to a server", ge=1)] = 4
    seconds: Annotated[float, about("timeout of a request", gt=0)] = 30.0
    query_seconds: Annotated[float, about("timeout of a question with all its tries", gt=0)] = 5.0
    retries: Annotated[int, about("further tries of a failed request", ge=0)] = 3


class Chunking(SettingsSection, frozen=True):
    tokens: Annotated[int, about("most tokens in a chunk; the model reads 256", ge=16, le=256)] = (
        200
    )
    overlap: Annotated[
        int,
        about("tokens of whole sentences repeated from the last chunk", ge=0, le=128),
    ] = 32


class Ingest(SettingsSection, frozen=True):
    index_title: Annotated[bool, about("index the document's title with each of its chunks")] = (
        False
    )
    max_file_mib: Annotated[
        int,
        about("largest file read as one document; JSON Lines is read by line", ge=1),
    ] = 64
    links: Annotated[
        Literal["inside", "never", "anywhere"],
        about(
            "which links in an ingested folder are followed: those to places `inside` the ingested"
            " folders that are not hidden, none, or all. A path that is named may itself be a link"
        ),
    ] = "inside"
    commit_chunks: Annotated[
        int, about("chunks after which a group of documents is committed", ge=1)
    ] = 256
    commit_seconds: Annotated[
        float, about("seconds after which a group of documents is committed", ge=0)
    ] = 2.0


class Index(SettingsSection, frozen=True):
    family: Annotated[
        Literal["auto", "flat", "pq", "ivf", "hnsw", "graph"],
        about(
            "of sealed segments: `flat` is exact, `pq` codes with exact rescoring, "
            "`ivf` codes in cells, `hnsw` and `graph` (extra `[graph]`) graphs; `auto` is what "
            "was tuned, before that `pq` above 8,000 chunks a segment"
        ),
    ] = "auto"
    metric: Annotated[
        Literal["cosine", "ip", "l2"],
        about("similarity of two vectors; a collection keeps the one it was made with"),
    ] = "cosine"
    seal_chunks: Annotated[
        int, about("new chunks in memory after which they are sealed into files", ge=1)
    ] = 8192
    merge_factor: Annotated[
        int, about("segments of like size that are merged into one", ge=2, le=64)
    ] = 4
    terms_chunks: Annotated[
        int, about("new chunks after which the term index is committed", ge=1)
    ] = 4096
    terms_seconds: Annotated[
        float, about("seconds after which the term index is committed", ge=0)
    ] = 5.0


class Search(SettingsSection, frozen=True):
    candidates: Annotated[
        int, about("chunks taken from each side before fusion", ge=1, le=10_000)
    ] = 50
    fusion: Annotated[
        Literal["auto", "max_norm", "min_max", "rrf", "dense", "keyword"],
        about("how both sides become one ranking; auto: as tuned, before that max_norm"),
    ] = "auto"
    keyword_weight: Annotated[
        float,
        about("w in w * bm25/max + (1-w) * cosine", ge=0, le=1),
    ] = 0.5
    rerank: Annotated[
        str,
        about(
            "the reranker: auto (maxsim where there are token vectors),"
            " off, maxsim, fitted (to your labels by `vivace tune --quality --qrels`; as auto where"
            " that does not help), fastembed:NAME-or-folder, or NAME@URL of a /rerank server"
        ),
    ] = "auto"
    rerank_depth: Annotated[
        int, about("how many of the best hits are reranked", ge=1, le=1_000)
    ] = 20
    rerank_weight: Annotated[
        float, about("w in (1-w) * fused/max + w * reranked/max", ge=0, le=1)
    ] = 0.6
    mmr: Annotated[
        float,
        about("weight of being unlike the hits before (MMR); 0 is off", ge=0, le=1),
    ] = 0.0
    rerank_seconds: Annotated[
        float, about("timeout of the reranker; after it the fused order stands", gt=0)
    ] = 2.0
    distinct: Annotated[
        bool, about("leave out a hit whose text a better one has, nearly word for word")
    ] = True
    max_question_chars: Annotated[int, about("longer questions are refused", ge=1)] = 20_000
    threads: Annotated[
        int, about("search threads; 0 is one a core of this machine's quota", ge=0)
    ] = 0


class Answering(SettingsSection, frozen=True):
    passages: Annotated[int, about("hits an answer is written from", ge=1, le=100)] = 5
    sentences: Annotated[
        int, about("most sentences the extractive generator quotes", ge=1, le=20)
    ] = 3
    templates: Annotated[str, about("folder of your own NAME.toml templates")] = ""
    documents: Annotated[int, about("most documents in a summary", ge=1, le=100)] = 3
    summary: Annotated[
        Literal["map_reduce", "refine"],
        about("of long texts: of parts side by side, or one that grows part by part"),
    ] = "map_reduce"
    parallel: Annotated[int, about("parts summarised at once", ge=1, le=256)] = 4
    deduplicate: Annotated[bool, about("show a repeated sentence once")] = True
    compress: Annotated[
        float, about("share of the passages' tokens that is shown; 1 is all", gt=0, le=1)
    ] = 1.0
    order: Annotated[Literal["rank", "ends"], about("the best passages first, or at both ends")] = (
        "rank"
    )
    structure: Annotated[
        bool, about("add instructions on the answer's structure to the prompt")
    ] = False
    refuse_below: Annotated[
        float,
        about("refuse, without asking the model, where an answer is less likely", ge=0, le=1),
    ] = 0.0
    ground: Annotated[bool, about("check a model's sentences by the passages")] = True


class Parse(SettingsSection, frozen=True):
    """Limits on reading binary, web and large files, in a process that can be killed."""

    seconds: Annotated[
        float, about("most seconds a file, or 4 MiB of JSON Lines, may take", gt=0)
    ] = 30.0
    memory_mib: Annotated[int, about("most memory a worker may use", ge=64)] = 768
    pages: Annotated[int, about("most pages (slides, sheets) of a file", ge=1)] = 5000
    chars: Annotated[int, about("most characters read from a file", ge=1)] = 50_000_000
    zip_entries: Annotated[int, about("most entries of a zip-based file", ge=1)] = 10_000
    zip_mib: Annotated[int, about("most a zip-based file may unpack to", ge=1)] = 256
    zip_ratio: Annotated[int, about("most times its size a zip-based file may unpack to", ge=2)] = (
        100
    )
    workers: Annotated[int, about("parse processes; 0 is one a core", ge=0)] = 0
    password: Annotated[str, hidden("tried on files that ask for one")] = ""


class Generate(SettingsSection, frozen=True):
    model: Annotated[
        str,
        about(
            "empty (quotes, no model) or `openai:NAME@URL`, URL ending in /v1; "
            "several servers of one model: `URL,URL*2`, behind the `*` a weight"
        ),
    ] = ""
    api_key: Annotated[str, hidden("sent as a bearer token")] = ""
    max_tokens: Annotated[int, about("most tokens of an answer", ge=1)] = 1024
    temperature: Annotated[float, about("sampling temperature", ge=0, le=2)] = 0.0
    context_tokens: Annotated[int, about("most tokens of the passages in a prompt", ge=128)] = 3000
    standalone: Annotated[
        bool,
        about("have the model rewrite a question that follows others before searching"),
    ] = True
    tokenizer: Annotated[str, about("tokenizer.json of the model; else estimates")] = ""
    system: Annotated[str, about("your own instructions, added to every prompt")] = ""
    connect_seconds: Annotated[float, about("timeout of connecting", gt=0)] = 5.0
    first_token_seconds: Annotated[float, about("timeout of the first token", gt=0)] = 60.0
    between_seconds: Annotated[float, about("timeout between two tokens", gt=0)] = 20.0
    total_seconds: Annotated[float, about("timeout of an answer", gt=0)] = 300.0
    retries: Annotated[int, about("further tries, before the first token only", ge=0)] = 2
    connections: Annotated[
        int,
        about(
            "most connections to a server; how many requests it gets at once, below "
            "that, is what it tells, else learned",
            ge=1,
        ),
    ] = 64
    coalesce: Annotated[bool, about("identical requests at the same time share one stream")] = True
    coalesce_sampled: Annotated[
        bool, about("also with a temperature above 0: all get the same answer")
    ] = False
    price_prompt: Annotated[float, about("per million prompt tokens, in any currency", ge=0)] = 0.0
    price_cached: Annotated[
        float, about("per million cached prompt tokens; 0 is price_prompt", ge=0)
    ] = 0.0
    price_completion: Annotated[float, about("per million completion tokens", ge=0)] = 0.0


class Server(SettingsSection, frozen=True):
    host: Annotated[str, about("address to listen on")] = "127.0.0.1"
    port: Annotated[int, about("0 is any free port", ge=0, le=65535)] = 8765
    hosts: Annotated[
        str,
        about(
            "names the Host header may carry, with commas, beside localhost and 127.0.0.1; "
            "`*` is any name; empty is no other when only this machine can reach the server, "
            "else every IP address, every name without a dot, and this machine's own name"
        ),
    ] = ""
    origins: Annotated[
        str,
        about(
            "web origins whose pages may call the server, as `https://docs.example`, with "
            "commas; pages of other sites are refused"
        ),
    ] = ""
    max_body_mib: Annotated[int, about("larger requests are refused", ge=1)] = 8
    body_seconds: Annotated[
        float, about("seconds after a request's head in which its body has to be complete", gt=0)
    ] = 10.0
    bodies_mib: Annotated[
        int,
        about(
            "most memory of all bodies that are not complete or whose requests wait; above it "
            "the largest incomplete one is refused",
            ge=1,
        ),
    ] = 64
    max_url_bytes: Annotated[int, about("longer request lines are refused", ge=64)] = 8192
    max_headers: Annotated[int, about("requests with more headers are refused", ge=8)] = 100
    max_head_kib: Annotated[
        int, about("a request line with its headers may be so large", ge=1, le=1024)
    ] = 32
    head_seconds: Annotated[
        float,
        about(
            "seconds in which a new connection has to send something, and a head has to be "
            "complete once it has begun",
            gt=0,
        ),
    ] = 10.0
    idle_seconds: Annotated[
        float,
        about(
            "seconds after an answer in which a connection stays open for the next request; "
            "longer than clients keep it, so that they close it first",
            gt=0,
        ),
    ] = 65.0
    connections: Annotated[
        int,
        about(
            "most connections at once; fewer where the process may open few files (`ulimit -n`)",
            ge=1,
        ),
    ] = 2048
    connections_per_address: Annotated[
        int,
        about(
            "most connections of one address (of IPv6: one /64 network); a reverse proxy counts "
            "as one",
            ge=1,
        ),
    ] = 512
    drain_seconds: Annotated[
        float, about("how long a shutdown waits for running answers", ge=0)
    ] = 10.0


class Admission(SettingsSection, frozen=True):
    """How many requests of a kind the server runs at once, and how long one may wait."""

    search: Annotated[int, about("most searches and embeddings at once; 0 is learned", ge=0)] = 0
    chat: Annotated[int, about("most answers at once; 0 is learned", ge=0)] = 0
    highest: Annotated[int, about("the most that may be learned", ge=1)] = 256
    queue: Annotated[int, about("most requests of a kind that wait", ge=0)] = 64
    search_seconds: Annotated[
        float,
        about("deadline of a search that sends no `x-request-timeout-ms`", gt=0),
    ] = 10.0
    chat_wait_seconds: Annotated[
        float, about("longest foreseen wait of an answer without a deadline", gt=0)
    ] = 10.0


class QueryLog(SettingsSection, frozen=True):
    log: Annotated[bool, about("keep the questions asked; tuning learns from them")] = True
    keep: Annotated[int, about("most questions kept, the newest", ge=0)] = 100_000


class Tune(SettingsSection, frozen=True):
    """The objective of a collection's index, and how it is watched."""

    recall: Annotated[float, about("floor of recall@10 against exact search", ge=0, le=1)] = 0.95
    p95_ms: Annotated[float, about("most milliseconds of a dense search; 0 is no limit", ge=0)] = (
        0.0
    )
    memory_mib: Annotated[float, about("most memory of the index; 0 is no limit", ge=0)] = 0.0
    budget_seconds: Annotated[float, about("most seconds of a tuning", gt=0)] = 120.0
    guard: Annotated[bool, about("answer some questions again exactly, to watch the recall")] = True
    guard_share: Annotated[
        float, about("most of the process's CPU time spent on watching", gt=0, le=1)
    ] = 0.02
    retune: Annotated[
        bool, about("tune again, in the background, when recall falls below the floor")
    ] = True
    retune_seconds: Annotated[float, about("least seconds between two automatic tunings", ge=0)] = (
        600.0
    )


class Cache(SettingsSection, frozen=True):
    """What is cached of earlier requests, and where."""

    memory_mib: Annotated[
        float,
        about(
            "most memory of cached values in a process, a quarter of it for semantic "
            "answers where there are any; 0 is no cache",
            ge=0,
        ),
    ] = 64.0
    policy: Annotated[
        Literal["auto", "lru", "lfu", "wtinylfu", "s3fifo", "arc", "predictive"],
        about("eviction policy; `auto` watches several and takes the best"),
    ] = "auto"
    embeddings: Annotated[bool, about("keep the vectors of questions")] = True
    searches: Annotated[
        bool, about("keep the results of searches until the collection changes")
    ] = True
    answers: Annotated[bool, about("keep what the model answered to the very same prompt")] = True
    sampled: Annotated[bool, about("keep answers of a temperature above 0, too")] = False
    seconds: Annotated[float, about("most seconds a value lives; spread by a tenth", gt=0)] = (
        86_400.0
    )
    stale_seconds: Annotated[
        float, about("seconds an expired answer is served while it is recomputed", ge=0)
    ] = 0.0
    negative_seconds: Annotated[
        float, about("seconds a search that found nothing is remembered", ge=0)
    ] = 5.0
    redis: Annotated[
        str,
        hidden(
            "L2 (extra `[redis]`): redis://, rediss:// or unix://, of a server or of a "
            "proxy before a cluster; empty is none"
        ),
    ] = ""
    sql: Annotated[
        str,
        hidden(
            "L3: `sqlite` (cache.db under `home`), a path, or postgresql:// (extra "
            "`[postgres]`); empty is none"
        ),
    ] = ""
    secret: Annotated[
        str,
        hidden(
            "of 16 characters or more, the same in every process: values in L2 and L3 carry a code "
            "by which another writer's are refused; empty is none"
        ),
    ] = ""
    sql_mib: Annotated[float, about("most bytes of values kept in L3", gt=0)] = 1024.0
    tier_ms: Annotated[
        float,
        about("milliseconds L2 and L3 together may delay a request; then a miss", gt=0),
    ] = 30.0
    semantic: Annotated[
        bool, about("reuse the answer to a question that asks the same in other words")
    ] = False
    semantic_bound: Annotated[
        float,
        about("most wrong answers by it, as a share of all questions", gt=0, lt=1),
    ] = 0.01


class Settings(SettingsSection, frozen=True):
    """Everything that can be set. Make one with `load`."""

    home: Annotated[
        str,
        about("where named collections live; empty is `$XDG_DATA_HOME/vivace`"),
    ] = ""
    embed: Embed = Embed()
    remote: Remote = Remote()
    chunk: Chunking = Chunking()
    ingest: Ingest = Ingest()
    parse: Parse = Parse()
    index: Index = Index()
    search: Search = Search()
    answer: Answering = Answering()
    generate: Generate = Generate()
    server: Server = Server()
    admission: Admission = Admission()
    queries: QueryLog = QueryLog()
    tune: Tune = Tune()
    cache: Cache = Cache()
