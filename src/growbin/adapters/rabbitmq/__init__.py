"""RabbitMQ: the job queue and its dead letters."""
