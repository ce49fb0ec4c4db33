"""The model folder: the Hugging Face layout plus langwright.json, opened, read and written."""

from langwright.models.folder.deferred import Deferred as Deferred
from langwright.models.folder.opened import CONFIG as CONFIG
from langwright.models.folder.opened import FORMAT_VERSION as FORMAT_VERSION
from langwright.models.folder.opened import GENERATION as GENERATION
from langwright.models.folder.opened import RECORD as RECORD
from langwright.models.folder.opened import OpenedFolder as OpenedFolder
from langwright.models.folder.saving import refuse_out as refuse_out
from langwright.models.folder.saving import save_model as save_model
from langwright.models.tasks import new_model as new_model
