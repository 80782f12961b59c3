"""The local broker, with metrics as in the cluster."""

from __future__ import annotations

from collections.abc import Sequence

from growbin.local.parts.part import write_private
from growbin.local.parts.rabbitmq import RabbitMQ


class MeasuredRabbitMQ(RabbitMQ):
    """As the operator runs it: with metrics of each queue."""

    port_names = (*RabbitMQ.port_names, "prometheus")  # type: ignore[assignment]  # one more

    def command(self) -> Sequence[str]:
        command = super().command()
        configuration = self.folder / "rabbitmq.conf"
        own = f"""\
prometheus.tcp.ip = 127.0.0.1
prometheus.tcp.port = {self.ports["prometheus"]}
prometheus.return_per_object_metrics = true
"""
        write_private(configuration, configuration.read_text() + own)
        write_private(self.folder / "enabled_plugins", "[rabbitmq_management,rabbitmq_prometheus].\n")
        return command
