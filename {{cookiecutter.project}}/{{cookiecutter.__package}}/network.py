{% include cookiecutter.task ~ '/network.py' %}
