"""Video codecs behind one interface, and the latents that they leave on disk.

Training never sees a codec at work: :func:`prepare` encodes each clip once, and
:class:`LatentWindows` cuts training clips out of what it stored.
"""

from feat_fed.codec.at_site import finish_erasing, prepare_at_site
from feat_fed.codec.base import Latent, VideoCodec, flip_latent
from feat_fed.codec.build import build_codec
from feat_fed.codec.prepare import LatentClip, LatentClips, prepare
from feat_fed.codec.stats import LatentStats
from feat_fed.codec.store import LatentStore
from feat_fed.codec.wavelet import WaveletCodec
from feat_fed.codec.whole import WholeClip
from feat_fed.codec.windows import LatentWindows, WindowsSource

__all__ = [
    "Latent",
    "LatentClip",
    "LatentClips",
    "LatentStats",
    "LatentStore",
    "LatentWindows",
    "VideoCodec",
    "WaveletCodec",
    "WholeClip",
    "WindowsSource",
    "build_codec",
    "finish_erasing",
    "flip_latent",
    "prepare",
    "prepare_at_site",
]
