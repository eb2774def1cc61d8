"""Every client, and bare stubs, in every language, through the same scenarios: `PYTHONPATH=tests python -m interop`.

`scenarios` reads what is to be shown, `world` is what one runner meets (a real server, its upstream, a proxy),
`replicas` are its servers, `control` is how the runner moves it, `languages` builds and starts runners, `runners` runs
them, `matrix` shows it.
"""
