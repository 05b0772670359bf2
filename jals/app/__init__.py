"""The command `jals`, experiments from config files, and what they show. Needs the extra `cli`; nothing in the core
imports it."""
