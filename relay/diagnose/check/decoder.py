"""Hop 5: can returns be read as the flow's settings say?

Invariant: reads only: the decoder is made as the services make it, and its registry is asked.
"""

from __future__ import annotations

import asyncio

from relay.consumers.returns.decoding import DecoderUnavailableError, decoder_for
from relay.consumers.returns.registry import Registry
from relay.diagnose.check.result import Result, failed, ok
from relay.runtime.flow import Flow
from relay.runtime.rest import without_login
from relay.runtime.settings_sources import SettingsError

_NAME = "returns.decoder"


async def check_decoder(flow: Flow) -> list[Result]:
    """Judge a flow's decoder; JSON needs none."""
    decoding = flow.decoding
    try:
        decoder_for(decoding)
        if decoding.registry is not None:
            await asyncio.to_thread(Registry(decoding.registry).check)
    except SettingsError as error:
        return [failed(_NAME, str(error), f"correct [flow.{flow.name}.decoder]")]
    except DecoderUnavailableError as error:
        return [failed(_NAME, str(error), "correct [registry] url, or bring the registry back")]
    if decoding.format == "json":
        return []
    where = f", {without_login(decoding.registry.url)} answers" if decoding.registry else ""
    return [ok(_NAME, f"{decoding.format}{where}")]
