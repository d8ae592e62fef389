"""Every setting with its type, its default and what it means."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta


class Embed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    model: Annotated[
        str,
        Meta(
            description="`builtin` (all-MiniLM-L6-v2, English) or `given:DIM` "
            "(every vector is passed in; questions without one use keywords alone), "
            "`openai:NAME@URL` (several servers of one model: `URL,URL*2`, behind the `*` a "
            "weight; `#DIM` at the end spares asking a server at the start), "
            "or `fastembed:NAME-or-folder` (extra `[models]`)"
        ),
    ] = "builtin"
    workers: Annotated[
        int, Meta(ge=0, description="embedding threads; 0 is one a core of this machine's quota")
    ] = 0
    batch: Annotated[int, Meta(ge=1, le=64, description="most texts in one forward pass")] = 8
    tokens: Annotated[
        Literal["signs", "pooled", "off"],
        Meta(
            description="what is stored of each token's vector, for `search.rerank`: `signs` "
            "(48 bytes a token of the built-in model, some 7.5 KB a chunk), `pooled` (of two "
            "neighbours' mean, half of it) or `off`; what is stored already changes with "
            "`vivace rebuild --reembed`"
        ),
    ] = "signs"


class Remote(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of embedders named `openai:NAME@URL`."""

    api_key: Annotated[str, Meta(description="sent as a bearer token; never shown")] = ""
    batch: Annotated[int, Meta(ge=1, le=2048, description="most texts in one request")] = 64
    concurrency: Annotated[int, Meta(ge=1, description="most requests at once to a server")] = 4
    seconds: Annotated[float, Meta(gt=0, description="timeout of a request")] = 30.0
    query_seconds: Annotated[
        float, Meta(gt=0, description="timeout of a question with all its tries")
    ] = 5.0
    retries: Annotated[int, Meta(ge=0, description="further tries of a failed request")] = 3


class Chunking(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    tokens: Annotated[
        int, Meta(ge=16, le=256, description="most tokens in a chunk; the model reads 256")
    ] = 200
    overlap: Annotated[
        int,
        Meta(ge=0, le=128, description="tokens of whole sentences repeated from the last chunk"),
    ] = 32


class Ingest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    index_title: Annotated[
        bool, Meta(description="index the document's title with each of its chunks")
    ] = False
    max_file_mib: Annotated[
        int,
        Meta(ge=1, description="largest file read as one document; JSON Lines is read by line"),
    ] = 64
    commit_chunks: Annotated[
        int, Meta(ge=1, description="chunks after which a group of documents is committed")
    ] = 256
    commit_seconds: Annotated[
        float, Meta(ge=0, description="seconds after which a group of documents is committed")
    ] = 2.0


class Index(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    family: Annotated[
        Literal["auto", "flat", "pq", "ivf", "hnsw", "graph"],
        Meta(
            description="of sealed segments: `flat` is exact, `pq` codes with exact rescoring, "
            "`ivf` codes in cells, `hnsw` and `graph` (extra `[graph]`) graphs; `auto` is what "
            "was tuned, before that `pq` above 8,000 chunks a segment"
        ),
    ] = "auto"
    metric: Annotated[
        Literal["cosine", "ip", "l2"],
        Meta(description="similarity of two vectors; a collection keeps the one it was made with"),
    ] = "cosine"
    seal_chunks: Annotated[
        int, Meta(ge=1, description="new chunks in memory after which they are sealed into files")
    ] = 8192
    merge_factor: Annotated[
        int, Meta(ge=2, le=64, description="segments of like size that are merged into one")
    ] = 4
    terms_chunks: Annotated[
        int, Meta(ge=1, description="new chunks after which the term index is committed")
    ] = 4096
    terms_seconds: Annotated[
        float, Meta(ge=0, description="seconds after which the term index is committed")
    ] = 5.0


class Search(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    candidates: Annotated[
        int, Meta(ge=1, le=10_000, description="chunks taken from each side before fusion")
    ] = 50
    fusion: Annotated[
        Literal["auto", "max_norm", "min_max", "rrf", "dense", "keyword"],
        Meta(description="how both sides become one ranking; auto: as tuned, before that max_norm"),
    ] = "auto"
    keyword_weight: Annotated[
        float,
        Meta(ge=0, le=1, description="w in w * bm25/max + (1-w) * cosine"),
    ] = 0.5
    rerank: Annotated[
        str,
        Meta(
            description="the reranker: auto (maxsim where there are token vectors),"
            " off, maxsim, fitted (to your labels by `vivace tune --quality --qrels`; as auto where"
            " that does not help), fastembed:NAME-or-folder, or NAME@URL of a /rerank server"
        ),
    ] = "auto"
    rerank_depth: Annotated[
        int, Meta(ge=1, le=1_000, description="how many of the best hits are reranked")
    ] = 20
    rerank_weight: Annotated[
        float, Meta(ge=0, le=1, description="w in (1-w) * fused/max + w * reranked/max")
    ] = 0.6
    mmr: Annotated[
        float,
        Meta(ge=0, le=1, description="weight of being unlike the hits before (MMR); 0 is off"),
    ] = 0.0
    rerank_seconds: Annotated[
        float, Meta(gt=0, description="timeout of the reranker; after it the fused order stands")
    ] = 2.0
    distinct: Annotated[
        bool, Meta(description="leave out a hit whose text a better one has, nearly word for word")
    ] = True
    max_question_chars: Annotated[int, Meta(ge=1, description="longer questions are refused")] = (
        20_000
    )
    threads: Annotated[
        int, Meta(ge=0, description="search threads; 0 is one a core of this machine's quota")
    ] = 0


class Answering(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    passages: Annotated[int, Meta(ge=1, le=100, description="hits an answer is written from")] = 5
    sentences: Annotated[
        int, Meta(ge=1, le=20, description="most sentences the extractive generator quotes")
    ] = 3
    templates: Annotated[str, Meta(description="folder of your own NAME.toml templates")] = ""
    documents: Annotated[int, Meta(ge=1, le=100, description="most documents in a summary")] = 3
    summary: Annotated[
        Literal["map_reduce", "refine"],
        Meta(description="of long texts: of parts side by side, or one that grows part by part"),
    ] = "map_reduce"
    parallel: Annotated[int, Meta(ge=1, le=256, description="parts summarised at once")] = 4
    deduplicate: Annotated[bool, Meta(description="show a repeated sentence once")] = True
    compress: Annotated[
        float, Meta(gt=0, le=1, description="share of the passages' tokens that is shown; 1 is all")
    ] = 1.0
    order: Annotated[
        Literal["rank", "ends"], Meta(description="the best passages first, or at both ends")
    ] = "rank"
    structure: Annotated[
        bool, Meta(description="add instructions on the answer's structure to the prompt")
    ] = False
    refuse_below: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="refuse, without asking the model, where an answer is less likely",
        ),
    ] = 0.0
    ground: Annotated[bool, Meta(description="check a model's sentences by the passages")] = True


class Parse(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Limits on reading binary, web and large files, in a process that can be killed."""

    seconds: Annotated[float, Meta(gt=0, description="most seconds a file may take")] = 30.0
    memory_mib: Annotated[int, Meta(ge=64, description="most memory a worker may use")] = 768
    pages: Annotated[int, Meta(ge=1, description="most pages (slides, sheets) of a file")] = 5000
    chars: Annotated[int, Meta(ge=1, description="most characters read from a file")] = 50_000_000
    zip_entries: Annotated[int, Meta(ge=1, description="most entries of a zip-based file")] = 10_000
    zip_mib: Annotated[int, Meta(ge=1, description="most a zip-based file may unpack to")] = 256
    zip_ratio: Annotated[
        int, Meta(ge=2, description="most times its size a zip-based file may unpack to")
    ] = 100
    workers: Annotated[int, Meta(ge=0, description="parse processes; 0 is one a core")] = 0
    password: Annotated[str, Meta(description="tried on files that ask for one; never shown")] = ""


class Generate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    model: Annotated[
        str,
        Meta(
            description="empty (quotes, no model) or `openai:NAME@URL`, URL ending in /v1; "
            "several servers of one model: `URL,URL*2`, behind the `*` a weight"
        ),
    ] = ""
    api_key: Annotated[str, Meta(description="sent as a bearer token; never shown")] = ""
    max_tokens: Annotated[int, Meta(ge=1, description="most tokens of an answer")] = 1024
    temperature: Annotated[float, Meta(ge=0, le=2, description="sampling temperature")] = 0.0
    context_tokens: Annotated[
        int, Meta(ge=128, description="most tokens of the passages in a prompt")
    ] = 3000
    standalone: Annotated[
        bool,
        Meta(description="have the model rewrite a question that follows others before searching"),
    ] = True
    tokenizer: Annotated[str, Meta(description="tokenizer.json of the model; else estimates")] = ""
    system: Annotated[str, Meta(description="your own instructions, added to every prompt")] = ""
    connect_seconds: Annotated[float, Meta(gt=0, description="timeout of connecting")] = 5.0
    first_token_seconds: Annotated[float, Meta(gt=0, description="timeout of the first token")] = (
        60.0
    )
    between_seconds: Annotated[float, Meta(gt=0, description="timeout between two tokens")] = 20.0
    total_seconds: Annotated[float, Meta(gt=0, description="timeout of an answer")] = 300.0
    retries: Annotated[
        int, Meta(ge=0, description="further tries, before the first token only")
    ] = 2
    connections: Annotated[
        int,
        Meta(
            ge=1,
            description="most connections to a server; how many requests it gets at once, below "
            "that, is what it tells, else learned",
        ),
    ] = 64
    coalesce: Annotated[
        bool, Meta(description="identical requests at the same time share one stream")
    ] = True
    coalesce_sampled: Annotated[
        bool, Meta(description="also with a temperature above 0: all get the same answer")
    ] = False
    price_prompt: Annotated[
        float, Meta(ge=0, description="per million prompt tokens, in any currency")
    ] = 0.0
    price_cached: Annotated[
        float, Meta(ge=0, description="per million cached prompt tokens; 0 is price_prompt")
    ] = 0.0
    price_completion: Annotated[float, Meta(ge=0, description="per million completion tokens")] = (
        0.0
    )


class Server(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    host: Annotated[str, Meta(description="address to listen on")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="0 is any free port")] = 8765
    hosts: Annotated[
        str,
        Meta(
            description="names the Host header may carry, with commas; empty is localhost and "
            "127.0.0.1 when only this machine can reach the server, else any"
        ),
    ] = ""
    max_body_mib: Annotated[int, Meta(ge=1, description="larger requests are refused")] = 8
    drain_seconds: Annotated[
        float, Meta(ge=0, description="how long a shutdown waits for running answers")
    ] = 10.0


class Admission(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many requests of a kind the server runs at once, and how long one may wait."""

    search: Annotated[
        int, Meta(ge=0, description="most searches and embeddings at once; 0 is learned")
    ] = 0
    chat: Annotated[int, Meta(ge=0, description="most answers at once; 0 is learned")] = 0
    highest: Annotated[int, Meta(ge=1, description="the most that may be learned")] = 256
    queue: Annotated[int, Meta(ge=0, description="most requests of a kind that wait")] = 64
    search_seconds: Annotated[
        float,
        Meta(
            gt=0,
            description="deadline of a search that sends no `x-request-timeout-ms`",
        ),
    ] = 10.0
    chat_wait_seconds: Annotated[
        float, Meta(gt=0, description="longest foreseen wait of an answer without a deadline")
    ] = 10.0


class QueryLog(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    log: Annotated[bool, Meta(description="keep the questions asked; tuning learns from them")] = (
        True
    )
    keep: Annotated[int, Meta(ge=0, description="most questions kept, the newest")] = 100_000


class Tune(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The objective of a collection's index, and how it is watched."""

    recall: Annotated[
        float, Meta(ge=0, le=1, description="floor of recall@10 against exact search")
    ] = 0.95
    p95_ms: Annotated[
        float, Meta(ge=0, description="most milliseconds of a dense search; 0 is no limit")
    ] = 0.0
    memory_mib: Annotated[
        float, Meta(ge=0, description="most memory of the index; 0 is no limit")
    ] = 0.0
    budget_seconds: Annotated[float, Meta(gt=0, description="most seconds of a tuning")] = 120.0
    guard: Annotated[
        bool, Meta(description="answer some questions again exactly, to watch the recall")
    ] = True
    guard_share: Annotated[
        float, Meta(gt=0, le=1, description="most of the process's CPU time spent on watching")
    ] = 0.02
    retune: Annotated[
        bool, Meta(description="tune again, in the background, when recall falls below the floor")
    ] = True
    retune_seconds: Annotated[
        float, Meta(ge=0, description="least seconds between two automatic tunings")
    ] = 600.0


class Cache(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is cached of earlier requests, and where."""

    memory_mib: Annotated[
        float,
        Meta(
            ge=0,
            description="most memory of cached values in a process, a quarter of it for semantic "
            "answers where there are any; 0 is no cache",
        ),
    ] = 64.0
    policy: Annotated[
        Literal["auto", "lru", "lfu", "wtinylfu", "s3fifo", "arc", "predictive"],
        Meta(description="eviction policy; `auto` watches several and takes the best"),
    ] = "auto"
    embeddings: Annotated[bool, Meta(description="keep the vectors of questions")] = True
    searches: Annotated[
        bool, Meta(description="keep the results of searches until the collection changes")
    ] = True
    answers: Annotated[
        bool, Meta(description="keep what the model answered to the very same prompt")
    ] = True
    sampled: Annotated[bool, Meta(description="keep answers of a temperature above 0, too")] = False
    seconds: Annotated[
        float, Meta(gt=0, description="most seconds a value lives; spread by a tenth")
    ] = 86_400.0
    stale_seconds: Annotated[
        float, Meta(ge=0, description="seconds an expired answer is served while it is recomputed")
    ] = 0.0
    negative_seconds: Annotated[
        float, Meta(ge=0, description="seconds a search that found nothing is remembered")
    ] = 5.0
    redis: Annotated[
        str,
        Meta(
            description="L2 (extra `[redis]`): redis://, rediss:// or unix://, of a server or of a "
            "proxy before a cluster; empty is none. Never shown"
        ),
    ] = ""
    sql: Annotated[
        str,
        Meta(
            description="L3: `sqlite` (cache.db under `home`), a path, or postgresql:// (extra "
            "`[postgres]`); empty is none. Never shown"
        ),
    ] = ""
    sql_mib: Annotated[float, Meta(gt=0, description="most bytes of values kept in L3")] = 1024.0
    tier_ms: Annotated[
        float,
        Meta(gt=0, description="milliseconds L2 and L3 together may delay a request; then a miss"),
    ] = 30.0
    semantic: Annotated[
        bool, Meta(description="reuse the answer to a question that asks the same in other words")
    ] = False
    semantic_bound: Annotated[
        float,
        Meta(gt=0, lt=1, description="most wrong answers by it, as a share of all questions"),
    ] = 0.01


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that can be set. Make one with `load`."""

    home: Annotated[
        str,
        Meta(description="where named collections live; empty is `$XDG_DATA_HOME/vivace`"),
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
