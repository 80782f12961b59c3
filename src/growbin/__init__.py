"""growbin: a photo of waste in, "which bin, and how" out.

The map, in reading order:

    job.py           the nouns: Upload, Job, Stage, ProgressEvent, Analysis, Advice, Failure
    consumer/        handle_job: one job from delivery to verdict (the story)
    ports.py         the outside world on one screen
    wiring/          ties each program together: opens the adapters, runs it
    gateway/         the way in over HTTP: tickets, jobs, sessions, the progress stream
    adapters/        one folder or module for each outside system (RabbitMQ, Redis, photos, model)
    rules.py         category -> bin, steps, cautions (reads data/), pure
    photo.py         what a photo may be and how it is cleaned (runs in a child process)
    commands/        analyze, dead-letters, doctor
    embedded_model/  the default model, behind an OpenAI-compatible endpoint
    local/           the local parts that `make run` and `make test` start
    config.py        every setting, with its default; errors.py: named by what we do next
"""
