# SPDX-License-Identifier: Apache-2.0
"""What the libraries of the hubs raise, as one line that says what to do."""

import contextlib
import errno
import importlib
from collections.abc import Iterator

from checkpoints.hub_names import Name, near_known
from recurrentgemma.errors import UserError

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
LOG_IN = "`hf auth login`, or set HF_TOKEN"


@contextlib.contextmanager
def of_huggingface(name: Name) -> Iterator[None]:
    """Raises UserError for what huggingface_hub raises, and OSError for a full disk or a file that
    cannot be written; what is neither stays as it is."""
    from httpx2 import HTTPError  # what huggingface_hub stands on
    from huggingface_hub import errors

    expected = (
        errors.HfHubHTTPError,
        errors.LocalEntryNotFoundError,
        errors.RevisionResolutionError,
        errors.FileMetadataError,
        errors.OfflineModeIsEnabled,
        errors.HFValidationError,
        errors.XetDownloadError,
        HTTPError,
    )
    try:
        yield
    except expected as error:
        raise UserError(f"{name}: {_explain(name, error)}") from error
    except OSError as error:
        if error.errno is None and "Consistency check failed" in str(error):
            raise UserError(
                f"{name}: a file arrived with another size than it has there; try again"
            ) from error
        if error.errno in NO_SPACE:
            raise UserError(
                f"{name}: the disk of the cache is full ({error.filename or error.strerror}); free "
                "some of it, or set HF_HOME to a folder of another disk"
            ) from error
        raise


def _explain(name: Name, error: Exception) -> str:
    from httpx2 import HTTPError
    from huggingface_hub import constants, errors, get_token

    hub = constants.ENDPOINT.split("//")[-1]
    page = f"{constants.ENDPOINT}/{name.repository}"
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
    if isinstance(error, errors.GatedRepoError):
        if get_token() is None:
            return (
                f"its licence must be accepted first: log in at {page} and accept it there, then "
                f"log in here with {LOG_IN}"
            )
        return (
            f"its licence must be accepted first: at {page}, with the account that your token "
            "belongs to; a fine-grained token must be allowed to read public gated repositories"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return (
            f"it has no branch, tag or commit {name.revision!r} (a commit is given by all of its "
            f"40 digits); see {page}/commits"
        )
    if isinstance(error, errors.DisabledRepoError):
        return f"{hub} has disabled access to this model"
    if isinstance(error, errors.RepositoryNotFoundError) or status in (401, 404):
        refused = _server_said(error)
        if status == 401 and get_token() is not None:
            return (
                f"{hub} does not take your token{refused}: {LOG_IN} to a valid one, or take it away"
            )
        return (
            f"there is no folder of that path here, and {hub} shows no model of that name"
            f"{near_known(name.repository)}; if it is a private one, log in with an account that "
            f"may see it: {LOG_IN}"
        )
    if status == 403:
        return f"{hub} does not let your token read it{_server_said(error)}; see {page}"
    if status == 429:
        return f"{hub} has had too many requests from here; wait some minutes, or log in: {LOG_IN}"
    if isinstance(error, errors.HFValidationError):
        return f"not a name that {hub} has ({error})"
    cache = f"there is no whole copy in {constants.HF_HUB_CACHE}"
    if constants.is_offline_mode() or isinstance(error, errors.OfflineModeIsEnabled):
        return (
            f"there is no folder of that path here, HF_HUB_OFFLINE is set, and {cache}: unset it, "
            "or download the model where there is a network and copy that folder here"
        )
    cause: BaseException = error
    while cause.__cause__ is not None and not isinstance(cause, HTTPError):
        cause = cause.__cause__
    if isinstance(cause, errors.HfHubHTTPError):
        return f"{hub} answers {cause.response.status_code}, and {cache}; try again later"
    reason = (str(cause) or type(cause).__name__).strip().splitlines()[0]
    return (
        f"there is no folder of that path here, {hub} cannot be reached ({reason}), and {cache}: "
        "look at the network and at HF_ENDPOINT"
    )


def _server_said(error: Exception) -> str:
    reason = getattr(error, "server_message", None)
    return f" ({' '.join(reason.split())})" if reason else ""


@contextlib.contextmanager
def of_kaggle(name: Name) -> Iterator[None]:
    """Raises UserError for what kagglehub raises."""
    exceptions = importlib.import_module("kagglehub.exceptions")
    requests = exceptions.requests

    page = f"https://www.kaggle.com/models/{'/'.join(name.repository.split('/')[:2])}"
    token = "https://www.kaggle.com/settings: put a token into ~/.kaggle/ or KAGGLE_API_TOKEN"
    try:
        yield
    except requests.HTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status in (401, 403):
            message = f"accept its licence at {page}, and log in here ({token})"
        elif status == 404:
            message = f"there is no such model, variation or version; see {page}"
        else:
            message = f"Kaggle answers {status}; try again later"
        raise UserError(f"{name}: {message}") from error
    except exceptions.UnauthenticatedError as error:
        raise UserError(f"{name}: log in to Kaggle first ({token})") from error
    except (requests.ConnectionError, requests.Timeout) as error:
        version = "" if name.revision else f"; a copy here is found by its version, {name}/1"
        raise UserError(f"{name}: Kaggle cannot be reached{version}") from error
    except exceptions.DataCorruptionError as error:
        raise UserError(f"{name}: a file arrived damaged; try again") from error
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        raise UserError(
            f"{name}: the disk of the cache is full; free some of it, or set KAGGLEHUB_CACHE to a "
            "folder of another disk"
        ) from error
