"""The only folder that names concrete classes: it assembles everything from the settings."""

from vivace.collection.paths import collection_path as collection_path
from vivace.engine.collection import Collection as Collection
from vivace.engine.collection import Findings as Findings
from vivace.engine.contents import Chunks as Chunks
from vivace.engine.contents import Decisions as Decisions
from vivace.engine.contents import Listing as Listing
from vivace.engine.engine import Engine as Engine
