"""From a recording to a timeline that a person can read: transcript, utterances, scores, report."""
