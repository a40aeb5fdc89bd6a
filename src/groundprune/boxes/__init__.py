"""Boxes: their geometry, the frames they are measured in, and the languages models write them in."""

from groundprune.boxes.codecs import CODECS, BoxCodec, LlavaCodec, ShikraCodec, make_codec, register_codec
from groundprune.boxes.frames import (
    FRAMES,
    CroppedFrame,
    Frame,
    OriginalFrame,
    PaddedSquareFrame,
    make_frame,
    register_frame,
)
from groundprune.boxes.geometry import Box, Point, iou
from groundprune.boxes.languages import Bbox2dPixelsCodec
from groundprune.boxes.point_languages import GridPoints
from groundprune.boxes.points import POINT_CODECS, PointCodec, make_point_codec, register_point_codec

__all__ = [
    "CODECS",
    "FRAMES",
    "POINT_CODECS",
    "Bbox2dPixelsCodec",
    "Box",
    "BoxCodec",
    "CroppedFrame",
    "Frame",
    "GridPoints",
    "LlavaCodec",
    "OriginalFrame",
    "PaddedSquareFrame",
    "Point",
    "PointCodec",
    "ShikraCodec",
    "iou",
    "make_codec",
    "make_frame",
    "make_point_codec",
    "register_codec",
    "register_frame",
    "register_point_codec",
]
