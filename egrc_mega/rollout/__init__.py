"""Rollouts: the servers, the client that speaks SGLang's HTTP API, rollouts in segments, the fleet."""
