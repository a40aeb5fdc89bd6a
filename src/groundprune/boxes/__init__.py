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
from groundprune.boxes.geometry import Box, iou
from groundprune.boxes.languages import Bbox2dPixelsCodec

__all__ = [
    "CODECS",
    "FRAMES",
    "Bbox2dPixelsCodec",
    "Box",
    "BoxCodec",
    "CroppedFrame",
    "Frame",
    "LlavaCodec",
    "OriginalFrame",
    "PaddedSquareFrame",
    "ShikraCodec",
    "iou",
    "make_codec",
    "make_frame",
    "register_codec",
    "register_frame",
]
