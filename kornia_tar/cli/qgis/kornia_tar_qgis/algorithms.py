"""The algorithms: parameters in, the words of the command out; the result goes to the map."""

from __future__ import annotations

import json
from pathlib import Path

from qgis.core import (
    QgsProcessing,
    QgsProcessingAlgorithm,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingOutputNumber,
    QgsProcessingOutputRasterLayer,
    QgsProcessingParameterBoolean,
    QgsProcessingParameterDefinition,
    QgsProcessingParameterEnum,
    QgsProcessingParameterFile,
    QgsProcessingParameterFileDestination,
    QgsProcessingParameterFolderDestination,
    QgsProcessingParameterMultipleLayers,
    QgsProcessingParameterNumber,
    QgsProcessingParameterRasterLayer,
    QgsProcessingParameterString,
    QgsProviderRegistry,
)

from .process import CANCELED, REFUSED, REGISTERED, run, words

MODALITIES = ["optical", "sar", "auto"]
MODELS = ["affine", "similarity", "homography", "spline", "auto"]
RESAMPLINGS = ["bilinear", "nearest", "cubic"]
GRIDS = ["reference", "source"]
ROTATIONS = ["8", "4", "1"]


class CommandAlgorithm(QgsProcessingAlgorithm):
    """What the algorithms share: one subcommand of kornia-tar, run in a process of its own."""

    COMMAND = TITLE = HELP = ""

    def __init__(self, find):
        super().__init__()
        self.find = find  # returns the command's path, or raises ValueError

    def createInstance(self):
        """Return another one; QGIS runs each in an instance of its own."""
        return type(self)(self.find)

    def name(self):
        """Return the name in kornia_tar:NAME."""
        return self.COMMAND

    def displayName(self):
        """Return what people read."""
        return self.TITLE

    def shortHelpString(self):
        """Return the help beside the dialog."""
        return self.HELP

    def canExecute(self):
        """Say whether the command is there, and what to do where it is not."""
        try:
            self.find()
        except ValueError as error:
            return False, str(error)
        return True, ""

    def advanced(self, parameter):
        """Add a parameter that few need."""
        parameter.setFlags(parameter.flags() | QgsProcessingParameterDefinition.FlagAdvanced)
        self.addParameter(parameter)

    def number(self, name, text, minimum=None):
        """Add an optional number that few need."""
        limits = {} if minimum is None else {"minValue": minimum}
        self.advanced(
            QgsProcessingParameterNumber(name, text, QgsProcessingParameterNumber.Double, optional=True, **limits)
        )

    def add_pair(self):
        """Add the two images and what is told of them."""
        self.addParameter(QgsProcessingParameterRasterLayer("IMAGE0", "Reference image (usually optical)"))
        self.addParameter(QgsProcessingParameterRasterLayer("IMAGE1", "Image to bring onto it (usually SAR)"))
        for k, default in ((0, 0), (1, 1)):
            text = ("Modality of the reference", "Modality of the other image")[k]
            self.addParameter(QgsProcessingParameterEnum(f"MODALITY{k}", text, MODALITIES, defaultValue=default))
            self.number(f"NODATA{k}", ("Nodata value of the reference", "Nodata value of the other image")[k])

    def add_grid(self):
        """Add the grid that is written on."""
        text = "Grid (source: the second image's own, its content moved)"
        self.advanced(QgsProcessingParameterEnum("GRID", text, GRIDS, defaultValue=0))
        self.number("RESOLUTION", "Pixel size, in units of the grid's reference system (empty: the grid's)", 0)

    def add_last(self, load):
        """Add what stands last: whether to replace earlier results and to add the result to the map."""
        self.addParameter(QgsProcessingParameterBoolean("OVERWRITE", "Replace earlier results", defaultValue=False))
        self.addParameter(QgsProcessingParameterBoolean("LOAD", "Add the result to the map", defaultValue=load))

    def pair(self, parameters, context):
        """Return both images' paths, and the options of :meth:`add_pair`."""
        paths = [file_of(self.parameterAsRasterLayer(parameters, f"IMAGE{k}", context)) for k in (0, 1)]
        options = {}
        for k in (0, 1):
            options[f"modality{k}"] = self.choice(parameters, f"MODALITY{k}", MODALITIES, context)
            options[f"nodata{k}"] = self.optional(parameters, f"NODATA{k}", context)
        return paths, options

    def choice(self, parameters, name, values, context):
        """Return which of the values was chosen."""
        return values[self.parameterAsEnum(parameters, name, context)]

    def optional(self, parameters, name, context):
        """Return a number, or None where it was left empty."""
        return None if parameters.get(name) is None else self.parameterAsDouble(parameters, name, context)

    def call(self, told, folder, feedback):
        """Run the command; returns how it ended.

        Raises:
            QgsProcessingException: with the command's own words, where it failed or was canceled.
        """
        try:
            command = [self.find(), *told]
            feedback.pushCommandInfo(" ".join(command))

            def advance(share, text):
                feedback.setProgress(100 * share)
                feedback.setProgressText(text)

            ended = run(command, feedback.isCanceled, feedback.pushInfo, advance, folder)
        except ValueError as error:
            raise QgsProcessingException(str(error)) from error
        if ended.code == CANCELED:
            raise QgsProcessingException("canceled; nothing half-written is left")
        if ended.code not in (REGISTERED, REFUSED):
            raise QgsProcessingException(ended.reason)
        feedback.setProgress(100)
        return ended

    def load(self, parameters, path, name, output, context):
        """Add a file to the map once the algorithm is done, where that is wanted."""
        project = context.project()
        if self.parameterAsBoolean(parameters, "LOAD", context) and project is not None:
            details = QgsProcessingContext.LayerDetails(name, project, output)
            context.addLayerToLoadOnCompletion(str(path), details)


class RegisterAlgorithm(CommandAlgorithm):
    """kornia-tar register."""

    COMMAND, TITLE = "register", "Register"
    HELP = (
        "Lays the second image exactly onto the first, or says why that cannot be trusted: then the algorithm fails "
        "with the reason, and quicklook.png and report.json in the folder show more. Where both layers have a "
        "georeference it leads the search."
    )

    def initAlgorithm(self, config=None):
        """Declare the parameters."""
        self.add_pair()
        self.addParameter(QgsProcessingParameterEnum("MODEL", "Transform", MODELS, defaultValue=0))
        self.number("SEARCH_RADIUS", "Search radius in metres (empty: by the data)", 0)
        self.advanced(QgsProcessingParameterBoolean("NO_GEOREFERENCE", "Leave georeferences aside", defaultValue=False))
        self.advanced(
            QgsProcessingParameterEnum("ROTATIONS", "Rotations tried without georeferences", ROTATIONS, defaultValue=0)
        )
        self.advanced(QgsProcessingParameterEnum("RESAMPLING", "Resampling", RESAMPLINGS, defaultValue=0))
        self.add_grid()
        self.number("MIN_PROBABILITY", "Least probability that the transform is right (empty: 0.55)", 0)
        self.add_last(load=True)
        self.addParameter(QgsProcessingParameterFolderDestination("OUTPUT", "Folder for the results"))
        self.addOutput(QgsProcessingOutputRasterLayer("REGISTERED", "Registered image"))
        self.addOutput(QgsProcessingOutputNumber("PROBABILITY", "Probability that the transform is right to 10 px"))
        self.addOutput(QgsProcessingOutputNumber("ERROR", "Estimated error, pixels of the second image"))

    def processAlgorithm(self, parameters, context, feedback):
        """Run it."""
        paths, options = self.pair(parameters, context)
        folder = Path(self.parameterAsString(parameters, "OUTPUT", context))
        told = words(self.COMMAND, paths, {
            **options,
            "model": self.choice(parameters, "MODEL", MODELS, context),
            "search-radius": self.optional(parameters, "SEARCH_RADIUS", context),
            "no-georeference": self.parameterAsBoolean(parameters, "NO_GEOREFERENCE", context),
            "rotations": self.choice(parameters, "ROTATIONS", ROTATIONS, context),
            "resampling": self.choice(parameters, "RESAMPLING", RESAMPLINGS, context),
            "grid": self.choice(parameters, "GRID", GRIDS, context),
            "resolution": self.optional(parameters, "RESOLUTION", context),
            "min-probability": self.optional(parameters, "MIN_PROBABILITY", context),
            "overwrite": self.parameterAsBoolean(parameters, "OVERWRITE", context),
            "progress": True,
            "out": folder,
        })  # fmt: skip
        ended = self.call(told, folder, feedback)
        if ended.code == REFUSED:
            raise QgsProcessingException(ended.reason)
        report = json.loads((folder / "report.json").read_text("utf-8"))
        result = next(path for path in (folder / "registered.tif", folder / "registered.png") if path.is_file())
        self.load(parameters, result, f"{Path(paths[1]).stem} registered", "REGISTERED", context)
        return {
            "OUTPUT": str(folder), "REGISTERED": str(result), "PROBABILITY": report["probability"],
            "ERROR": report["error_estimate_px"],
        }  # fmt: skip


class ApplyAlgorithm(CommandAlgorithm):
    """kornia-tar apply."""

    COMMAND, TITLE = "apply", "Apply"
    HELP = (
        "Lays other bands, polarisations or resolutions of the second image's product onto the reference, by the "
        "transform.json of a registration. Nothing is matched anew."
    )

    def initAlgorithm(self, config=None):
        """Declare the parameters."""
        self.addParameter(QgsProcessingParameterFile("TRANSFORM", "transform.json of a registration", extension="json"))
        self.addParameter(
            QgsProcessingParameterMultipleLayers("IMAGES", "Images of the same product", QgsProcessing.TypeRaster)
        )
        self.addParameter(QgsProcessingParameterEnum("RESAMPLING", "Resampling", RESAMPLINGS, defaultValue=0))
        self.add_grid()
        self.number("NODATA", "Nodata value of the images")
        self.advanced(QgsProcessingParameterBoolean("REFUSED", "Apply a refused registration, too", defaultValue=False))
        self.add_last(load=True)
        self.addParameter(QgsProcessingParameterFolderDestination("OUTPUT", "Folder for the results"))

    def processAlgorithm(self, parameters, context, feedback):
        """Run it."""
        transform = self.parameterAsFile(parameters, "TRANSFORM", context)
        paths = [file_of(layer) for layer in self.parameterAsLayerList(parameters, "IMAGES", context)]
        folder = Path(self.parameterAsString(parameters, "OUTPUT", context))
        told = words(self.COMMAND, [transform, *paths], {
            "resampling": self.choice(parameters, "RESAMPLING", RESAMPLINGS, context),
            "grid": self.choice(parameters, "GRID", GRIDS, context),
            "resolution": self.optional(parameters, "RESOLUTION", context),
            "nodata": self.optional(parameters, "NODATA", context),
            "refused": self.parameterAsBoolean(parameters, "REFUSED", context),
            "overwrite": self.parameterAsBoolean(parameters, "OVERWRITE", context),
            "progress": True,
            "out": folder,
        })  # fmt: skip
        self.call(told, folder, feedback)
        for path in paths:
            name = f"{Path(path).stem}_registered"
            self.load(parameters, folder / f"{name}.tif", name, name, context)
        return {"OUTPUT": str(folder)}


class LandCoverAlgorithm(CommandAlgorithm):
    """kornia-tar landcover."""

    COMMAND, TITLE = "landcover", "Land cover"
    HELP = (
        "Draws what the text's words say of two images, cell by cell, on one picture with a legend. The map is rough. "
        "The picture has no georeference: look at it beside the map."
    )

    def initAlgorithm(self, config=None):
        """Declare the parameters."""
        self.add_pair()
        self.addParameter(
            QgsProcessingParameterString("NAMES", "Only these words, comma-separated (empty: all)", optional=True)
        )
        self.advanced(QgsProcessingParameterFile("BANK", "Text bank instead of the weights' own text", optional=True))
        self.add_last(load=False)
        self.addParameter(QgsProcessingParameterFileDestination("OUTPUT", "Picture", "PNG (*.png)"))

    def processAlgorithm(self, parameters, context, feedback):
        """Run it."""
        paths, options = self.pair(parameters, context)
        picture = Path(self.parameterAsFileOutput(parameters, "OUTPUT", context))
        told = words(self.COMMAND, paths, {
            **options,
            "names": self.parameterAsString(parameters, "NAMES", context) or None,
            "bank": self.parameterAsFile(parameters, "BANK", context) or None,
            "overwrite": self.parameterAsBoolean(parameters, "OVERWRITE", context),
            "progress": True,
            "out": picture,
        })  # fmt: skip
        self.call(told, picture.parent, feedback)
        self.load(parameters, picture, picture.stem, "OUTPUT", context)
        return {"OUTPUT": str(picture)}


def file_of(layer):
    """Return the file of a raster layer, as an absolute path.

    Raises:
        QgsProcessingException: it lies in no file: a web service, a database, a part of a file.
    """
    if layer is None:
        raise QgsProcessingException("an image is missing, or is no raster layer that can be opened")
    path = QgsProviderRegistry.instance().decodeUri(layer.providerType(), layer.source()).get("path", "")
    if not Path(path).is_file():
        raise QgsProcessingException(f"{layer.name()}: lies in no file of its own; export it as GeoTIFF first")
    return str(Path(path).resolve())
