"""Files that hold a volume: their names, whether their content is here, how nibabel opens them."""

from __future__ import annotations

import contextvars
import logging
import os
import pathlib
import re
import stat
import warnings

import nibabel
import numpy as np
from nibabel.spatialimages import SpatialImage

from anatcl_jax.errors import UserError

_ENDING = re.compile(r'(\.(nii|img|hdr)(\.gz|\.bz2)?|\.mgh|\.mgz)$', re.IGNORECASE)
_DEFLATE = 1032      # gzip makes nothing smaller by more
# What DataLad, git-annex and Git LFS leave where a file's content is elsewhere.
_ANNEX, _LFS = re.compile(rb'/annex/objects/'), re.compile(rb'version https://git-lfs')

_reading = contextvars.ContextVar('_reading', default=False)


class _Quiet(logging.Filter):
  """nibabel says what it mends in a header without a file; `headers` decides what matters of it."""

  def filter(self, record: logging.LogRecord) -> bool:
    return not _reading.get()


nibabel.imageglobals.logger.addFilter(_Quiet())
warnings.filterwarnings('ignore', module='nibabel')


def is_named_as_volume(path: pathlib.Path) -> bool:
  """Whether a file has an ending of those that are read as volumes."""
  return bool(_ENDING.search(path.name))


def stem(path: pathlib.Path) -> str:
  """A volume's name without its ending: `sub-01_T1w` of sub-01_T1w.nii.gz."""
  return _ENDING.sub('', path.name)


def of_pair(path: pathlib.Path) -> pathlib.Path:
  """The .img of a .hdr where it is there, so that the two are one volume; else the path itself."""
  image = path.with_name(re.sub(r'\.hdr(?=$|\.gz$|\.bz2$)', '.img', path.name))
  return image if image != path and os.path.lexists(image) else path


def state(path: pathlib.Path) -> tuple[int, ...]:
  """Size and time of change, of a pair's header too: others where the volume is another.

  Raises:
    OSError: it can't be seen.
  """
  header = path.with_name(re.sub(r'\.img(?=$|\.gz$|\.bz2$)', '.hdr', path.name))
  files = [path.stat()] + ([header.stat()] if header != path and header.exists() else [])
  return tuple(number for file in files for number in (file.st_size, file.st_mtime_ns))


def opened(path: pathlib.Path) -> SpatialImage:
  """The image of a file, its header read and its voxels not.

  Raises:
    UserError: it is not there, no regular file, no volume, or its orientation is unknown.
  """
  _check_content(path)
  quiet = _reading.set(True)
  try:
    image = nibabel.load(path)
    if isinstance(image, nibabel.MGHImage):
      _check_mgh(path)
    if isinstance(image, nibabel.Nifti1Pair):     # as Nifti1Image is
      _put_back_sizes(image)
  except UserError:
    raise
  except PermissionError:
    raise UserError(f'{path}: may not be read (permission denied)') from None
  except FileNotFoundError as error:
    raise UserError(f'{path}: its other half, {error.filename}, is missing') from None
  except Exception as error:  # nibabel raises what its decompressor or header parser raised
    raise UserError(f'{path}: not a readable NIfTI volume ({first_line(error)})') from None
  finally:
    _reading.reset(quiet)
  if not isinstance(image, SpatialImage):
    raise UserError(f'{path}: is no volume but what nibabel calls a {type(image).__name__}; give '
                    'one 3-D volume a file')
  return image


def check_length(image: SpatialImage, path: pathlib.Path) -> None:
  """Raises UserError where an image claims more voxels than its file can hold."""
  holder = image.file_map.get('image') if nibabel.is_proxy(image.dataobj) else None
  name = holder.filename if holder else None
  if not name or not os.path.isfile(name) or str(name).endswith('.bz2'):
    return
  most = os.path.getsize(name) * (_DEFLATE if str(name).lower().endswith(('.gz', '.mgz')) else 1)
  claimed = int(np.prod(image.shape, dtype=float)) * np.dtype(image.get_data_dtype()).itemsize
  if claimed > most:
    raise UserError(f'{path}: truncated or damaged (its header claims {claimed:,} bytes, the file '
                    f'holds at most {most:,}); copy or make it again')


def _check_content(path: pathlib.Path) -> None:
  try:
    about = os.stat(path)
  except FileNotFoundError:
    if not path.is_symlink():
      raise UserError(f'{path}: no such file') from None
    target = os.readlink(path)
    if 'annex/objects' in target:
      raise UserError(f'{path}: its content is not here, as DataLad and git-annex link it; run '
                      f'`datalad get {path}`') from None
    raise UserError(f'{path}: no such file as {target}, to which it is a link; where DataLad '
                    'keeps the data, run `datalad get` on it') from None
  except OSError as error:
    raise UserError(f'{path}: can\'t be read ({error.strerror})') from None
  if stat.S_ISDIR(about.st_mode):
    raise UserError(f'{path}: is a folder, not a volume')
  if not stat.S_ISREG(about.st_mode):
    raise UserError(f'{path}: is no regular file')
  if not about.st_size:
    raise UserError(f'{path}: not a readable NIfTI volume (the file is empty)')
  if about.st_size < 1024:
    try:
      start = path.read_bytes()
    except OSError as error:
      raise UserError(f'{path}: can\'t be read ({error.strerror})') from None
    if _ANNEX.match(start):
      raise UserError(f'{path}: its content is not here, as DataLad and git-annex leave it; run '
                      f'`datalad get {path}`')
    if _LFS.match(start):
      raise UserError(f'{path}: its content is not here, as Git LFS leaves it; run `git lfs pull`')


def _put_back_sizes(image: nibabel.Nifti1Pair) -> None:
  """The voxel sizes as the file has them: nibabel makes 1 mm of 0."""
  with image.file_map['header' if 'header' in image.file_map else 'image'
                      ].get_prepare_fileobj('rb') as file:
    raw = type(image.header).from_fileobj(file, check=False)
  image.header['pixdim'] = raw['pixdim']


def _check_mgh(path: pathlib.Path) -> None:
  with nibabel.openers.ImageOpener(str(path)) as file:
    start = file.read(30)
  if int.from_bytes(start[28:30], 'big') != 1:
    raise UserError(f'{path}: its header holds no orientation (goodRASFlag is not 1), so left and '
                    'right are unknown; set it with the tool that wrote the file')


def first_line(error: Exception) -> str:
  """What an exception of a library says, short enough for an error line of ours."""
  return (str(error).splitlines() or [type(error).__name__])[0][:120]
