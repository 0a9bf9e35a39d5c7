# SPDX-License-Identifier: Apache-2.0
"""griffin-lm's playground: a page in the browser, as files that are sent as they are."""
