
from workers import ApiError, Plugin

plugin = Plugin(id="set", version="1.0.0", permissions=["ui:render", "events:emit", "network:fetch"])


@plugin.hook("onActionExecute")
def run(context, params):
    wanted, settings, result = params["action"], context.settings, None
    if wanted == "read":
        result = {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()
                  if key != "apiKey"}
        result["knows"] = "apiKey" in settings
    elif wanted == "change":
        try:
            settings["region"] = "us"
        except TypeError as error:
            result = str(error)
    elif wanted == "print":
        print("the key is", settings["apiKey"], "!")
    elif wanted == "raise":
        raise ValueError("no answer for " + settings["apiKey"])
    elif wanted == "return":
        result = ["x" + settings["apiKey"]]
    elif wanted == "emit":
        try:
            context.api.emit("said", {"key": settings["apiKey"]})
        except ApiError as error:
            result = error.code
    return {"result": result, "metadata": {}}
