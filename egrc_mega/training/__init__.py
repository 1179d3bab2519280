"""The parts of one training run that `egrc_mega.train` puts in order: schedule, collection, batch, update, metrics."""
