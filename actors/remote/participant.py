"""The participant's side: waits for work, trains with the code of a client actor, and sends what that yields. Imports no Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from actors.client import Client
from actors.data.reader import DataReader
from actors.errors import ClientTrainingError, DataError, ModelError
from actors.remote.connection import Connection, Ended, Withdrawn
from actors.remote.requests import Offer, Settings


class Participant:
    """One client on a machine of its own. Its data and its key stay there; what leaves it are step deltas and updates."""

    def __init__(
        self,
        connection: Connection,
        model: str,
        files: Sequence[Path],
        folder: Path,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Train on data files of the participant's own.

        Args:
            model: Path or hub name of its copy of the base model.
            files: Its data files.
            folder: Where the encoded examples are kept.
            tell: Called with a sentence for each thing that happens.
        """
        self._connection, self._model, self._files, self._folder, self._tell = connection, model, files, folder, tell
        self._settings: Settings | None = None
        self._client: Client | None = None

    def run(self) -> None:
        """Take part until the federation ends.

        Raises:
            GatewayError: the client is revoked, or the two sides do not fit. ModelError: the base model is another one.
            DataError: a file or a row cannot be used.
        """
        while True:
            try:
                if (offer := self._connection.wait_for_work()) is not None:
                    self._do(offer)
            except Withdrawn as why:
                self._tell(f"the gateway does not wait for this work any more ({why})")
            except Ended:
                self._tell("the federation has ended")
                return

    def _do(self, offer: Offer) -> None:
        number, sent = offer.task.round_index + 1, offer.num_delivered
        self._tell(f"round {number}: training")
        try:
            for index, (message, is_last) in enumerate(_with_last(self._messages(offer))):
                if index >= offer.num_delivered:
                    self._connection.send(offer, index, message, is_last=is_last)
                    sent = index + 1
        except (ClientTrainingError, DataError, ModelError) as error:
            self._connection.fail(offer, sent, str(error).strip().splitlines()[0])
            if not isinstance(error, ClientTrainingError):
                raise  # it would fail in every round
            self._tell(f"round {number}: {str(error).splitlines()[0]}")
        else:
            self._tell(f"round {number}: sent")

    def _messages(self, offer: Offer) -> Iterator[bytes]:
        client = self._trainer(offer.settings)
        task = replace(offer.task, files=(str(self._tokens),))
        yield from client.train(task, self._connection.adapter(offer), self._connection.difference(offer))

    def _trainer(self, settings: Settings) -> Client:
        """Trains as the run does; the base model is loaded once, and must be the run's."""
        if self._client is None or settings != self._settings:
            if settings.lora.start_from is not None:
                raise ModelError(f"the run starts from an adapter of the server's (lora.start_from={settings.lora.start_from})")
            client = Client(settings.model.model_copy(update={"path": self._model}), settings.lora, settings.training)
            layout = client.layout()
            if layout.model_fingerprint != settings.model_fingerprint:
                raise ModelError(
                    f"{self._model} holds base model {layout.model_fingerprint}, the federation trains "
                    f"{settings.model_fingerprint}; name a copy of that one with --model"
                )
            if layout.lora_fingerprint != settings.lora_fingerprint:
                raise ModelError("the initial adapter made here is not the federation's; install the versions of its server")
            self._client, self._settings = client, settings
            self._encode(settings)
        return self._client

    def _encode(self, settings: Settings) -> None:
        model = settings.model.model_copy(update={"path": self._model})
        reading = DataReader(model, settings.training.max_length).read(self._files)
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        reading.dataset.save(self._tokens)

    @property
    def _tokens(self) -> Path:
        return self._folder / "data.tokens"


def _with_last(messages: Iterator[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Each message as soon as it is known whether it is the last."""
    held: bytes | None = None
    for message in messages:
        if held is not None:
            yield held, False
        held = message
    if held is not None:
        yield held, True
