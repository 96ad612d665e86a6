"""The embedded demonstration data: hospitals with real files of invented patients."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.examples import get_path
from pydicom.uid import (
    MPEG4HP41,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    RLELossless,
    UltrasoundMultiFrameImageStorage,
    VideoEndoscopicImageStorage,
    generate_uid,
)

from feat_fed.config import RulesConfig, SiteDataConfig
from feat_fed.data.phantoms import Shape, echo_clip, endoscopy_clip

Video = npt.NDArray[np.uint8]
GENERATED_RULES = RulesConfig(review="waived", overlays="keep")
"""Nothing is written on these pictures but on pydicom's, which is anybody's."""

Writer = Callable[[Path, Video, float, str], None]


def write_demo_hospitals(
    root: Path,
    *,
    hospitals: int = 2,
    patients_per_hospital: int = 5,
    clips_per_patient: int = 2,
    seed: int = 0,
) -> dict[str, SiteDataConfig]:
    """Write a folder of clips for each hospital, and tell sites where theirs lie.

    Patients differ in examination (beating heart, endoscopy), frame rate, brightness and file
    format: DICOM with JPEG baseline, mp4, H.264 inside DICOM, RLE and uncompressed DICOM, in
    turn. The first hospital also has the ultrasound cine that comes with pydicom. Equal
    arguments give equal files, where the same encoders are installed.

    Raises
    ------
    OSError
        When ``root`` cannot be written.
    """
    sites = {}
    for hospital in range(hospitals):
        name = f"hospital-{hospital + 1}"
        for patient in range(patients_per_hospital):
            folder = root / name / f"patient-{patient + 1}"
            folder.mkdir(parents=True, exist_ok=True)
            write, suffix = _FORMATS[patient % len(_FORMATS)]
            rng = np.random.default_rng((seed, hospital, patient))
            is_echo, size_px = (patient + hospital) % 2 == 0, int(rng.choice([112, 120, 128]))
            fps, gain = float(rng.choice([20, 25, 30])), float(rng.uniform(0.8, 1.1))
            draw, patient_id = (
                echo_clip if is_echo else endoscopy_clip,
                f"DEMO-{hospital + 1}-{patient + 1}",
            )
            for clip in range(clips_per_patient):
                shape = Shape(frames=int(rng.integers(24, 49)), size_px=size_px, fps=fps)
                video = draw(shape, gain=gain, rng=rng)
                write(folder / f"clip-{clip + 1}{suffix}", video, fps, patient_id)
        sites[name] = SiteDataConfig(paths=(root / name,), rules=GENERATED_RULES)
    _copy_real_cine(root / "hospital-1" / "example" / "ultrasound.dcm")
    return sites


def write_mp4(path: Path, frames_THWC: Video, fps: float, patient_id: str) -> None:
    """Write H.264 in mp4; the folder is the patient, so ``patient_id`` goes nowhere."""
    path.write_bytes(encode_mp4(frames_THWC, fps))


def encode_mp4(frames_THWC: Video, fps: float) -> bytes:
    """Encode H.264 (yuv420p, near-lossless) in mp4; height and width are even."""
    buffer = BytesIO()
    with av.open(buffer, mode="w", format="mp4") as container:
        stream = container.add_stream(
            "libx264", rate=round(fps), options={"crf": "16", "threads": "1"}
        )
        stream.height, stream.width = frames_THWC.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames_THWC:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def write_dicom_h264(path: Path, frames_THWC: Video, fps: float, patient_id: str) -> None:
    """Write an mp4 stream into one fragment, as PS3.5 8.2.7 has it."""
    dataset = _dataset(path, frames_THWC, fps, patient_id)
    dataset.file_meta.TransferSyntaxUID = MPEG4HP41
    dataset.SOPClassUID = VideoEndoscopicImageStorage
    dataset.PhotometricInterpretation = "YBR_PARTIAL_420"
    dataset.PixelData = encapsulate([encode_mp4(frames_THWC, fps)], has_bot=False)
    _save(dataset, path)


def write_dicom_jpeg(path: Path, frames_THWC: Video, fps: float, patient_id: str) -> None:
    """Write JPEG baseline, the usual form of ultrasound cines."""
    dataset = _dataset(path, frames_THWC, fps, patient_id)
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.PhotometricInterpretation = "YBR_FULL_422"
    encoded = []
    for frame in frames_THWC:
        buffer = BytesIO()
        Image.fromarray(frame).save(buffer, format="JPEG", quality=92, subsampling="4:2:2")
        encoded.append(buffer.getvalue())
    dataset.PixelData = encapsulate(encoded)
    _save(dataset, path)


def write_dicom_raw(path: Path, frames_THWC: Video, fps: float, patient_id: str) -> None:
    """Write uncompressed RGB."""
    dataset = _dataset(path, frames_THWC, fps, patient_id)
    dataset.PixelData = frames_THWC.tobytes()
    _save(dataset, path)


def write_dicom_rle(path: Path, frames_THWC: Video, fps: float, patient_id: str) -> None:
    """Write RGB with DICOM's run-length coding."""
    dataset = _dataset(path, frames_THWC, fps, patient_id)
    dataset.compress(RLELossless, frames_THWC, generate_instance_uid=False)
    _save(dataset, path)


_FORMATS: tuple[tuple[Writer, str], ...] = (
    (write_dicom_jpeg, ".dcm"),
    (write_mp4, ".mp4"),
    (write_dicom_h264, ".dcm"),
    (write_dicom_rle, ".dcm"),
    (write_dicom_raw, ".dcm"),
)


def _dataset(path: Path, frames_THWC: Video, fps: float, patient_id: str) -> Dataset:
    """Make a header as a scanner would, of a patient who does not exist."""
    grey = bool((frames_THWC[..., 0] == frames_THWC[..., 1]).all())
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = (
        UltrasoundMultiFrameImageStorage
        if grey
        else MultiFrameTrueColorSecondaryCaptureImageStorage
    )
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[patient_id, path.name, "instance"])
    dataset.StudyInstanceUID = generate_uid(entropy_srcs=[patient_id, "study"])
    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=[patient_id, path.name, "series"])
    dataset.Modality = "US" if grey else "ES"
    dataset.PatientID = patient_id
    dataset.PatientName = f"Invented^{patient_id}"
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = (
        frames_THWC.shape
    )
    dataset.FrameTime = f"{1000 / fps:.3f}"
    dataset.FrameIncrementPointer = 0x00181063
    dataset.PhotometricInterpretation = "RGB"
    dataset.PlanarConfiguration = 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PixelRepresentation = 0
    return dataset


def _save(dataset: Dataset, path: Path) -> None:
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset["PixelData"].VR = "OB"
    dataset.save_as(path, enforce_file_format=True)


def _copy_real_cine(path: Path) -> None:
    """Copy ``pydicom.examples.ybr_color``: ultrasound, 30 frames of 240 x 320, JPEG baseline."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(get_path("ybr_color"), path)
