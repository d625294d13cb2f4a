"""Small 3D scenes, ray cast with exact depth, and the exact box of every object.

A scene is a graph of numbers and names. It renders at any resolution. Boxes are unit coordinates, computed from the scene
graph, so they do not depend on the resolution. World coordinates: x right, y up, z forward, the ground at y = 0.
"""

from __future__ import annotations

import io
import math
import os
import random
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sifthinker.boxes import Boxes
from sifthinker.depth import DepthMap
from sifthinker.embedded import WORLD_MARK
from sifthinker.files import atomic_write
from sifthinker.images import bears_mark

# Single precision throughout; NumPy's stubs widen mixed arithmetic, hence floating.
Floats = NDArray[np.floating]
_Points = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
_Coordinate = TypeVar("_Coordinate", float, NDArray[np.float64])
Shape = Literal["ball", "cube", "cylinder", "cone"]

SHAPES: tuple[Shape, ...] = ("ball", "cube", "cylinder", "cone")
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.13, 0.12),
    "orange": (0.98, 0.52, 0.06),
    "yellow": (0.97, 0.85, 0.12),
    "green": (0.14, 0.62, 0.24),
    "blue": (0.12, 0.31, 0.86),
    "purple": (0.55, 0.20, 0.70),
    "pink": (0.98, 0.55, 0.72),
    "white": (0.95, 0.95, 0.93),
}
_GROUNDS = ((0.62, 0.58, 0.52), (0.50, 0.54, 0.50), (0.55, 0.55, 0.60), (0.68, 0.62, 0.50), (0.44, 0.47, 0.52))
_SKIES = ((0.72, 0.82, 0.92), (0.86, 0.88, 0.90), (0.93, 0.85, 0.76), (0.66, 0.74, 0.80))
_TEXTURES = ("plain", "checker", "stripes", "speckle")

FAR = 16.0  # distance along the camera's axis at which depth is 1; the sky lies there too
NEAREST_DEPTH = 0.1  # depth of the ground at the lower edge of the image; keeps mean depths of boxes away from 0
REFERENCE_SIZE = 64  # questions that compare depths look at the depth map of this size
# Cosines and sines around a rim; 96 points leave the bounds within 0.05 % of the radius.
_CIRCLE = np.array([[turn(2 * math.pi * k / 96) for k in range(96)] for turn in (math.cos, math.sin)])
_MIN_SIDE = 0.125  # minimum side of a box: eight pixels of the nano model's image


@dataclass(frozen=True, slots=True)
class Level:
    """Difficulty of a scene: minimum and maximum number of objects, and the share of small objects."""

    objects: tuple[int, int]
    small: float


LEVELS = {"easy": Level((2, 3), 0.35), "medium": Level((3, 4), 0.5), "hard": Level((4, 6), 0.6)}


@dataclass(frozen=True, slots=True)
class Object:
    """An object on the ground.

    Args:
        shape: kind of shape.
        colour: name of the colour in `COLOURS`.
        size: "small" or "large".
        radius: half the width.
        x: x coordinate of the centre.
        z: z coordinate of the centre.
        yaw: rotation about the vertical axis, in radians.
        shiny: whether the object has a highlight.
        striped: whether the object has darker bands.
        dot: colour of a round mark on the side that faces the camera, or None.
    """

    shape: Shape
    colour: str
    size: Literal["small", "large"]
    radius: float
    x: float
    z: float
    yaw: float = 0.0
    shiny: bool = False
    striped: bool = False
    dot: str | None = None

    @property
    def name(self) -> str:
        """Name in questions, for example "red ball". It is unique in a scene."""
        return f"{self.colour} {self.shape}"

    @property
    def height(self) -> float:
        return self.radius * {"ball": 2.0, "cube": 2.0, "cylinder": 2.4, "cone": 2.6}[self.shape]


@dataclass(frozen=True)
class Scene:
    """A camera over a ground with objects.

    Args:
        objects: the objects, in no particular order.
        camera_height: height of the camera above the ground.
        pitch: angle by which the camera looks down, in radians.
        spread: tangent of half the field of view.
        light: unit vector towards the light.
        ground: colour of the ground.
        texture: texture of the ground: plain, checker, stripes or speckle.
        sky: colour of the sky.
    """

    objects: tuple[Object, ...]
    camera_height: float
    pitch: float
    spread: float
    light: tuple[float, float, float]
    ground: tuple[float, float, float]
    texture: str
    sky: tuple[float, float, float]

    @cached_property
    def boxes(self) -> Boxes:
        """(N, 4) unit xyxy boxes of complete objects, including hidden parts, clipped to the image."""
        return np.array([self._project(thing) for thing in self.objects]).reshape(-1, 4)

    @cached_property
    def distances(self) -> NDArray[np.float64]:
        """(N,) distance of the centre of each object along the camera axis."""
        return np.array([self._to_camera(t.x, t.height / 2, t.z)[2] for t in self.objects])

    @cached_property
    def reference(self) -> tuple[Image.Image, DepthMap, NDArray[np.int8]]:
        """The scene rendered at `REFERENCE_SIZE`."""
        return render(self, REFERENCE_SIZE)

    @property
    def depth_reference(self) -> DepthMap:
        """The depth map at `REFERENCE_SIZE`, which questions and teachers use."""
        return self.reference[1]

    def depth_of(self, distance: NDArray[np.floating] | float) -> NDArray[np.floating] | float:
        """Return the relative depth of a distance: NEAREST_DEPTH at the lower edge of the ground, 1 at FAR."""
        edge = self.camera_height / (self.spread * math.cos(self.pitch) + math.sin(self.pitch))
        return NEAREST_DEPTH + (distance - edge) * ((1 - NEAREST_DEPTH) / (FAR - edge))

    def _to_camera(self, x: _Coordinate, y: _Coordinate, z: _Coordinate) -> tuple[_Coordinate, _Coordinate, _Coordinate]:
        """World to camera coordinates: right, up, along the axis."""
        sin, cos = math.sin(self.pitch), math.cos(self.pitch)
        rise = y - self.camera_height
        return x, rise * cos + z * sin, z * cos - rise * sin

    def _project(self, thing: Object) -> tuple[float, float, float, float]:
        if thing.shape == "ball":
            right, up, along = self._to_camera(thing.x, thing.radius, thing.z)
            # The outline of a ball is where lines through the eye touch it: two tangents to a circle in each plane.
            bounds = []
            for side in (right, up):
                reach = math.sqrt(side**2 + along**2 - thing.radius**2)
                denominator = along**2 - thing.radius**2
                bounds += [(side * along + sign * thing.radius * reach) / denominator for sign in (-1, 1)]
            left, right_edge, low, high = (value / self.spread for value in bounds)
        else:
            rights, ups, alongs = self._to_camera(*_outline(thing))
            across, upwards = rights / alongs / self.spread, ups / alongs / self.spread  # (P,) in [-1, 1]
            left, low, right_edge, high = (float(v) for v in (across.min(), upwards.min(), across.max(), upwards.max()))
        x1, y1, x2, y2 = (left + 1) / 2, (1 - high) / 2, (right_edge + 1) / 2, (1 - low) / 2
        return max(0.0, x1), max(0.0, y1), min(1.0, x2), min(1.0, y2)


def _outline(thing: Object) -> _Points:
    """Return x, y, z, each (P,), of points with the same projected bounds as the object: corners, or points on rims."""
    if thing.shape == "cube":
        angles = [thing.yaw + math.pi / 4 + quarter * math.pi / 2 for quarter in range(4)]
        reach = thing.radius * math.sqrt(2)
        x = thing.x + reach * np.array([math.cos(angle) for angle in angles])
        z = thing.z + reach * np.array([math.sin(angle) for angle in angles])
    else:
        x, z = thing.x + thing.radius * _CIRCLE[0], thing.z + thing.radius * _CIRCLE[1]
    floor, top = np.zeros(len(x)), np.full(len(x), thing.height)
    if thing.shape == "cone":
        return np.append(x, thing.x), np.append(floor, thing.height), np.append(z, thing.z)
    return np.concatenate((x, x)), np.concatenate((floor, top)), np.concatenate((z, z))


def sample_scene(seed: int, level: str = "medium") -> Scene:
    """Return a random scene. The same seed and level always give the same scene.

    Objects are completely inside the image, do not touch, are at least `_MIN_SIDE` wide and high, and have different names.
    A nearer object covers at most two fifths of the box of a farther one. In half of the scenes, one shape or colour is
    common.

    Args:
        seed: any integer.
        level: one of `LEVELS`.
    """
    draw = random.Random(f"sifthinker scene {level} {seed}")
    settings = LEVELS[level]
    while True:
        scene = _attempt(draw, draw.randint(*settings.objects), settings.small)
        if len(scene.objects) >= settings.objects[0]:
            return scene


def _attempt(draw: random.Random, wanted: int, small: float) -> Scene:
    def tinted(colours: tuple[tuple[float, float, float], ...]) -> tuple[float, float, float]:
        red, green, blue = draw.choice(colours)
        brightness = draw.uniform(0.85, 1.1)
        return min(1.0, red * brightness), min(1.0, green * brightness), min(1.0, blue * brightness)

    turn, rise = draw.uniform(-1.2, 1.2), draw.uniform(0.7, 1.1)
    light = np.array([math.sin(turn) * math.cos(rise), math.sin(rise), -math.cos(turn) * math.cos(rise)])
    empty = Scene(
        objects=(),
        camera_height=draw.uniform(3.0, 4.2),
        pitch=draw.uniform(0.28, 0.42),
        spread=draw.uniform(0.46, 0.54),
        light=(float(light[0]), float(light[1]), float(light[2])),
        ground=tinted(_GROUNDS),
        texture=draw.choice(_TEXTURES),
        sky=tinted(_SKIES),
    )
    things: list[Object] = []
    boxes: list[tuple[float, float, float, float]] = []
    names = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    common = draw.choice((*SHAPES, *COLOURS)) if draw.random() < 0.5 else None
    order = {name: draw.random() * (0.2 if common in name else 1) for name in names}
    names.sort(key=order.__getitem__)
    for _ in range(wanted * 12):
        if len(things) == wanted:
            break
        colour, shape = names[len(things)]
        size: Literal["small", "large"] = "small" if draw.random() < small else "large"
        # The axis distance is drawn so that near and far are equally likely on screen, then x within the view.
        along = 1 / draw.uniform(1 / 11, 1 / 5.2)
        dot = draw.choice([name for name in COLOURS if name != colour]) if draw.random() < 0.4 else None
        thing = Object(
            shape=shape,
            colour=colour,
            size=size,
            radius=draw.uniform(0.5, 0.64) if size == "small" else draw.uniform(0.88, 1.12),
            x=along * empty.spread * draw.uniform(-0.92, 0.92),
            z=(along - empty.camera_height * math.sin(empty.pitch)) / math.cos(empty.pitch),
            yaw=draw.uniform(0, math.pi / 2),
            shiny=draw.random() < 0.5,
            striped=draw.random() < 0.2,
            dot=dot,
        )
        box = empty._project(thing)
        if _fits(thing, box, things, boxes, empty):
            things.append(thing)
            boxes.append(box)
    return Scene(**{**empty.__dict__, "objects": tuple(things)})


def _fits(
    thing: Object,
    box: tuple[float, float, float, float],
    things: list[Object],
    boxes: list[tuple[float, float, float, float]],
    scene: Scene,
) -> bool:
    if min(box[0], box[1], 1 - box[2], 1 - box[3]) < 0.015 or min(box[2] - box[0], box[3] - box[1]) < _MIN_SIDE:
        return False
    if thing.shape == "ball":
        nearest = scene._to_camera(thing.x, thing.radius, thing.z)[2] - thing.radius
    else:
        nearest = float(scene._to_camera(*_outline(thing))[2].min())
    if scene.depth_of(nearest) < NEAREST_DEPTH:
        return False
    for other, other_box in zip(things, boxes, strict=True):
        if math.hypot(thing.x - other.x, thing.z - other.z) < 1.42 * (thing.radius + other.radius):
            return False
        shared = max(0.0, min(box[2], other_box[2]) - max(box[0], other_box[0])) * max(
            0.0, min(box[3], other_box[3]) - max(box[1], other_box[1])
        )
        hidden = box if thing.z > other.z else other_box
        if shared > 0.4 * (hidden[2] - hidden[0]) * (hidden[3] - hidden[1]):
            return False
    return True


def render(scene: Scene, size: int = REFERENCE_SIZE) -> tuple[Image.Image, DepthMap, NDArray[np.int8]]:
    """Render a scene.

    Depth and object index are exact values for the ray through the centre of each pixel. Colours are anti-aliased: the mean
    of the colour at the centre and the mean colour of the four corners.

    Args:
        scene: the scene.
        size: width and height in pixels.
    Returns:
        (RGB image, depth map, (H, W) index of the object at each pixel or -1).
    """
    step = 2 / size
    centres = np.arange(size, dtype=np.float32) * step + (step / 2 - 1)
    corners = np.arange(size + 1, dtype=np.float32) * step - 1
    colour, distance, index = _cast(scene, centres)
    around, _, _ = _cast(scene, corners)
    mixed = (around[:-1, :-1] + around[1:, :-1] + around[:-1, 1:] + around[1:, 1:]) * 0.125 + colour * 0.5
    pixels = np.clip(mixed * 255 + 0.5, 0, 255).astype(np.uint8)
    depth = np.asarray(scene.depth_of(np.minimum(distance, FAR)), dtype=np.float32)
    return Image.fromarray(pixels), DepthMap(np.clip(depth, 0, 1)), index


def write_scene(path: str | os.PathLike[str], image: Image.Image, seed: int, level: str) -> None:
    """Write a rendered scene as a PNG that `is_world_image` recognises."""
    from PIL.PngImagePlugin import PngInfo

    mark = PngInfo()
    mark.add_text(WORLD_MARK, f"{level} {seed}")
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=mark)
    atomic_write(path, buffer.getvalue())


def is_world_image(path: str | os.PathLike[str]) -> bool:
    """Return whether `write_scene` wrote an image. An image that another program saved again has lost the mark.

    Raises:
        ImageError: the file is not an image.
    """
    return bears_mark(path, WORLD_MARK)


def _cast(scene: Scene, grid: Floats) -> tuple[Floats, Floats, NDArray[np.int8]]:
    """Cast rays through the points of a square grid on the image plane.

    Args:
        scene: the scene.
        grid: (S,) coordinates in [-1, 1], used for both axes.
    Returns:
        colour (S, S, 3), distance along the camera's axis (S, S), object index (S, S).
    """
    sin, cos = np.float32(math.sin(scene.pitch)), np.float32(math.cos(scene.pitch))
    across = (grid * scene.spread).astype(np.float32)  # (S,) x of the ray; the same in every row
    rise = (-grid * scene.spread).astype(np.float32)  # (S,) up in the camera; row 0 is the top
    ray_y = (rise * cos - sin)[:, None]  # (S, 1)
    ray_z = (rise * sin + cos)[:, None]  # (S, 1)
    ray_x = across[None, :]  # (1, S)
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.where(ray_y < 0, -scene.camera_height / ray_y, np.float32(np.inf))
    distance = np.broadcast_to(distance, (len(grid), len(grid))).astype(np.float32)
    ground = distance < FAR
    colour = _background(scene, ray_x, ray_y, ray_z, distance, ground)
    index = np.full(distance.shape, -1, dtype=np.int8)
    for number, thing in enumerate(scene.objects):
        rows, columns = _window(scene.boxes[number], grid)
        if rows.start >= rows.stop or columns.start >= columns.stop:
            continue
        x, y, z = ray_x[:, columns], ray_y[rows], ray_z[rows]
        hit, normal = _intersect(thing, scene.camera_height, x, y, z)
        closer = hit < distance[rows, columns]
        if not closer.any():
            continue
        shade = _surface(scene, thing, hit, normal, x, y, z)
        np.copyto(distance[rows, columns], hit, where=closer)
        np.copyto(index[rows, columns], np.int8(number), where=closer)
        np.copyto(colour[rows, columns], shade, where=closer[..., None])
    return colour, distance, index


def _window(box: NDArray[np.float64], grid: Floats) -> tuple[slice, slice]:
    """Return the rows and columns of the grid where an object may be visible."""
    x1, y1, x2, y2 = box * 2 - 1
    margin = 1e-3
    columns = slice(int(np.searchsorted(grid, x1 - margin)), int(np.searchsorted(grid, x2 + margin)))
    rows = slice(int(np.searchsorted(grid, y1 - margin)), int(np.searchsorted(grid, y2 + margin)))
    return rows, columns


def _background(
    scene: Scene, ray_x: Floats, ray_y: Floats, ray_z: Floats, distance: Floats, ground: NDArray[np.bool_]
) -> Floats:
    """Sky and textured ground with soft shadows: (S, S, 3)."""
    size = distance.shape[0]
    first = int(np.argmax(ground[:, 0])) if ground[:, 0].any() else size  # the ground fills every row from here down
    colour = np.empty((size, size, 3), dtype=np.float32)
    sky = np.asarray(scene.sky, dtype=np.float32)
    lift = np.clip(ray_y[:first] * 1.6 + 0.25, 0, 1)[..., None]
    colour[:first] = sky * (1 - 0.25 * lift)
    if first == size:
        return colour
    far = distance[first:]
    x, z = far * ray_x, far * ray_z[first:]  # (R, S) points of the ground
    if scene.texture == "checker":
        pattern = np.where((np.floor(x * 0.8) + np.floor(z * 0.8)) % 2 < 1, 1.0, 0.86)
    elif scene.texture == "stripes":
        pattern = np.where(np.floor((x * 0.8 + z * 0.6) * 0.9) % 2 < 1, 1.0, 0.88)
    elif scene.texture == "speckle":
        pattern = 0.94 + 0.06 * np.sin(x * 5.1 + 2 * np.sin(z * 3.7)) * np.sin(z * 4.3 + 2 * np.sin(x * 2.9))
    else:
        pattern = np.ones_like(x)
    light = scene.light
    shadow = np.ones_like(x)
    for thing in scene.objects:
        # Every shape casts the soft shadow of a ball: it depends on the distance between the ball's centre and the ray to
        # the light.
        dx, dz = thing.x - x, thing.z - z
        dy = thing.height / 2
        along = dx * light[0] + dy * light[1] + dz * light[2]
        passing = np.sqrt(np.maximum(dx * dx + dy * dy + dz * dz - along * along, 0))
        edge = np.clip((passing / thing.radius - 0.75) * 1.6, 0, 1)
        shadow = np.minimum(shadow, np.where(along > 0, 0.5 + 0.5 * edge, 1))
    haze = np.clip((far - 8) / (FAR - 8), 0, 1)[..., None] * np.float32(0.55)
    lit = (pattern * shadow * (0.55 + 0.5 * light[1]))[..., None] * np.asarray(scene.ground, dtype=np.float32)
    colour[first:] = lit * (1 - haze) + sky * haze
    return colour


def _intersect(thing: Object, eye: float, x: Floats, y: Floats, z: Floats) -> tuple[Floats, tuple[Floats, Floats, Floats]]:
    """Return where rays from the eye (0, eye, 0) along (x, y, z) first hit an object.

    Args:
        thing: the object.
        eye: camera height.
        x: (1, C) ray direction.
        y: (R, 1).
        z: (R, 1).
    Returns:
        distance (R, C), infinite for rays that miss, and the unit normal: three arrays that broadcast to (R, C).
    """
    radius, height = np.float32(thing.radius), np.float32(thing.height)
    none = np.float32(np.inf)
    with np.errstate(divide="ignore", invalid="ignore"):
        if thing.shape == "cube":
            cos, sin = np.float32(math.cos(thing.yaw)), np.float32(math.sin(thing.yaw))
            along_x, along_z = x * cos + z * sin, z * cos - x * sin  # ray in the cube's frame
            from_x, from_z = -thing.x * cos - thing.z * sin, thing.x * sin - thing.z * cos
            near_x = (-np.sign(along_x) * radius - from_x) / along_x
            far_x = (np.sign(along_x) * radius - from_x) / along_x
            near_z = (-np.sign(along_z) * radius - from_z) / along_z
            far_z = (np.sign(along_z) * radius - from_z) / along_z
            near_y, far_y = (height - eye) / y, -eye / y  # seen from above: enter by the top, leave by the ground
            enter = np.maximum(np.maximum(near_x, near_z), near_y)
            leave = np.minimum(np.minimum(far_x, far_z), far_y)
            hit = np.where((enter < leave) & (enter > 0), enter, none)
            on_x, on_z = enter == near_x, enter == near_z
            side_x = np.where(on_x, -np.sign(along_x), 0)
            side_z = np.where(on_z & ~on_x, -np.sign(along_z), 0)
            top = np.where(on_x | on_z, np.float32(0), np.float32(1))
            return hit, (side_x * cos - side_z * sin, top, side_x * sin + side_z * cos)
        dx, dz = np.float32(-thing.x), np.float32(-thing.z)
        if thing.shape == "ball":
            dy = np.float32(eye) - radius
            a = x * x + y * y + z * z
            b = x * dx + y * dy + z * dz
            c = dx * dx + dy * dy + dz * dz - radius * radius
            root = b * b - a * c
            hit = np.where(root > 0, (-b - np.sqrt(root)) / a, none)
            safe = np.where(np.isfinite(hit), hit, 0)
            return hit, ((safe * x + dx) / radius, (safe * y + dy) / radius, (safe * z + dz) / radius)
        if thing.shape == "cylinder":
            a = x * x + z * z
            b = x * dx + z * dz
            root = b * b - a * (dx * dx + dz * dz - radius * radius)
            wall = (-b - np.sqrt(root)) / a
            wall_y = eye + wall * y
            on_wall = (root > 0) & (wall_y >= 0) & (wall_y <= height)
            top = (height - eye) / y
            on_top = (top * x + dx) ** 2 + (top * z + dz) ** 2 <= radius * radius
            hit = np.where(on_wall, wall, np.where(on_top, top, none))
            safe = np.where(on_wall, wall, 0)
            flat = on_top & ~on_wall
            normal_x = np.where(flat, 0, (safe * x + dx) / radius)
            normal_z = np.where(flat, 0, (safe * z + dz) / radius)
            return hit, (normal_x, np.where(flat, np.float32(1), np.float32(0)), normal_z)
        # Cone: its radius shrinks from the ground to the apex by `slope` for each unit of height.
        slope = radius / height
        dy = np.float32(eye) - height
        a = x * x + z * z - (slope * y) ** 2
        b = x * dx + z * dz - slope * slope * y * dy
        c = dx * dx + dz * dz - (slope * dy) ** 2
        root = b * b - a * c
        square = np.sqrt(root)
        best = np.full(np.broadcast_shapes(x.shape, y.shape), none, dtype=np.float32)
        for candidate in ((-b - square) / a, (-b + square) / a):
            at = eye + candidate * y
            good = (root > 0) & (candidate > 0) & (at >= 0) & (at <= height)
            best = np.where(good & (candidate < best), candidate, best)
        safe = np.where(np.isfinite(best), best, 0)
        out_x, out_z = safe * x + dx, safe * z + dz
        length = np.sqrt(out_x * out_x + out_z * out_z) * np.sqrt(1 + slope * slope) + np.float32(1e-9)
        return best, (out_x / length, np.full_like(best, slope / np.sqrt(1 + slope * slope)), out_z / length)


def _surface(
    scene: Scene,
    thing: Object,
    hit: Floats,
    normal: tuple[Floats, Floats, Floats],
    x: Floats,
    y: Floats,
    z: Floats,
) -> Floats:
    """Colour of an object where rays meet it: (R, C, 3)."""
    safe = np.where(np.isfinite(hit), hit, 0)
    point_x, point_y, point_z = safe * x, scene.camera_height + safe * y, safe * z
    light = scene.light
    facing = normal[0] * light[0] + normal[1] * light[1] + normal[2] * light[2]
    # Light from the sky above, and less of it close to the ground.
    ambient = 0.34 + 0.14 * normal[1] + 0.14 * np.clip(point_y / thing.height, 0, 1)
    lit = ambient + 0.62 * np.maximum(facing, 0)
    if thing.striped:
        lit = lit * np.where(np.floor(point_y / thing.height * 5) % 2 < 1, np.float32(1), np.float32(0.62))
    base = np.asarray(COLOURS[thing.colour], dtype=np.float32)
    colour = lit[..., None] * base
    if thing.dot is not None:
        centre_x, centre_y, centre_z = _dot_centre(thing, scene.camera_height)
        off = (point_x - centre_x) ** 2 + (point_y - centre_y) ** 2 + (point_z - centre_z) ** 2
        inside = off < (0.5 * thing.radius) ** 2
        colour = np.where(inside[..., None], lit[..., None] * np.asarray(COLOURS[thing.dot], dtype=np.float32), colour)
    if thing.shiny:
        length = np.sqrt(x * x + y * y + z * z)
        # Half way between the directions to the light and to the eye.
        half_x, half_y, half_z = light[0] - x / length, light[1] - y / length, light[2] - z / length
        half = np.sqrt(half_x * half_x + half_y * half_y + half_z * half_z)
        glint = np.clip((normal[0] * half_x + normal[1] * half_y + normal[2] * half_z) / half, 0, 1)
        colour = colour + (0.5 * glint**32)[..., None]
    shade: Floats = np.clip(colour, 0, 1).astype(np.float32)
    return shade


def _dot_centre(thing: Object, eye: float) -> tuple[float, float, float]:
    """The point of the surface, at two fifths of the height, that a ray from the eye towards the axis meets first."""
    aim = thing.height * 0.4
    one = np.ones((1, 1), dtype=np.float32)
    direction = (one * thing.x, one * (aim - eye), one * thing.z)
    hit = float(_intersect(thing, eye, *direction)[0][0, 0])
    return hit * thing.x, eye + hit * (aim - eye), hit * thing.z
