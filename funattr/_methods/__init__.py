"""Attribution methods: a formula under a docstring each."""
