"""The only folder that names concrete classes: it assembles everything from the settings."""

from vivace.collection.paths import collection_path as collection_path
from vivace.engine.collection import Collection as Collection
from vivace.engine.engine import Engine as Engine
