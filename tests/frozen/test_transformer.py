"""The encoder as a transformer of scikit-learn: in a Pipeline with paths, cloned, searched."""

from __future__ import annotations

import dataclasses
import glob
import pickle

import nibabel
import numpy as np
import pandas
import pytest
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from anatcl_jax import features
from anatcl_jax.errors import UserError
from anatcl_jax.frozen import extract


@pytest.fixture(scope='module')
def encoder():
  return features.load('untrained:tiny', crop=(11, 14, 12))


@pytest.fixture(scope='module')
def scans(cohort) -> tuple[list[str], np.ndarray]:
  """Paths and ages of ten SYNTHETIC subjects."""
  paths = sorted(glob.glob(f'{cohort.participants.parent}/sub-*/anat/*_mod.nii.gz'))[:10]
  table = pandas.read_csv(cohort.participants, sep='\t')
  return paths, table['age'].to_numpy(float)[:10]


def test_a_pipeline_of_paths_is_features_and_then_a_model(encoder, scans, monkeypatch):
  """In each fold; and the encoder is compiled once for all of them."""
  paths, age = scans
  table = encoder(paths)
  plain = make_pipeline(StandardScaler(), Ridge())
  expected = cross_val_predict(plain, table, age, cv=3)
  monkeypatch.setattr(extract, 'frozen', lambda *_, **__: pytest.fail('compiled again'))
  whole = make_pipeline(encoder, StandardScaler(), Ridge())
  for images in (paths, np.array(paths), pandas.Series(paths), pandas.DataFrame({'path': paths})):
    np.testing.assert_allclose(cross_val_predict(whole, images, age, cv=3), expected, rtol=1e-5)
  search = GridSearchCV(whole, {'ridge__alpha': [0.1, 10]}, cv=3).fit(paths, age)
  other = GridSearchCV(plain, {'ridge__alpha': [0.1, 10]}, cv=3).fit(table, age)
  assert search.best_params_ == other.best_params_
  np.testing.assert_allclose(search.cv_results_['mean_test_score'],
                             other.cv_results_['mean_test_score'], rtol=1e-4)


def test_it_is_a_transformer(encoder, scans):
  paths, _ = scans
  images = [nibabel.load(path) for path in paths[:2]]
  expected = encoder(paths[:2])
  for found in (encoder.fit(images).transform(images), encoder.fit_transform(paths[:2], [1, 2]),
                encoder.transform([[path] for path in paths[:2]]),
                pickle.loads(pickle.dumps(encoder)).transform(paths[:2])):
    np.testing.assert_allclose(found, expected, rtol=1e-5)
  assert clone(encoder) is encoder and encoder.get_params()['precision'] == 'float32'
  assert list(encoder.get_feature_names_out()) == [f'f{i}' for i in range(64)]
  fitted = make_pipeline(encoder, StandardScaler()).fit(paths)
  assert len(repr(fitted)) < 2000 and len(fitted._repr_html_()) < 100_000
  assert encoder.set_params() is encoder
  with pytest.raises(dataclasses.FrozenInstanceError, match='stays as it was loaded'):
    encoder.pool = 'levels'
  with pytest.raises(UserError, match='pool: an encoder stays as it was loaded'):
    encoder.set_params(pool='levels')


@pytest.mark.parametrize('images, message', [
    ('x.nii', 'takes a list of images'), (5, 'takes a list of images'), ([], 'an empty list'),
    (np.zeros((2, 3)), 'give one column'), (pandas.Series([np.nan]), 'float is no image'),
    (['nowhere.nii'], 'nowhere.nii: no such file')])
def test_what_is_no_list_of_images(encoder, images, message):
  with pytest.raises(UserError, match=message):
    encoder.transform(images)
