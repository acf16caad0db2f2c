"""The drawn world behind the embedded default: what it holds, how it is drawn, how its small models were trained."""
